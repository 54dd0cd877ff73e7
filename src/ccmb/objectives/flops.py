"""Floating-point operations of a step of pre-training, for the log's MFU.

FLOPs of a step = 3 x (image tower + text tower + cross encoders) + 1 x teacher, of real tokens only; a frozen image
tower counts once in all, and not at all where its states are stored. Forward and backward pass together cost three
times the forward pass. Padding, recomputed activations and the products inside the losses are not counted; what an
image's pairs share counts once. A multiply-add is two operations.

Shapes: B pairs in the batch, R rows that FGR ranks, t tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode

from ccmb.objectives.config import Objectives
from ccmb.objectives.language_modeling import kept_tokens
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers


@dataclass(frozen=True, slots=True)
class Quadratic:
    """a + b t + c t^2: the cost of a transformer by its number of tokens t."""

    a: float
    b: float
    c: float

    @staticmethod
    def through(count: Callable[[int], int]) -> Quadratic:
        """Fit the counts at 1, 2 and 3 tokens; for a transformer the result is exact at any length."""
        one, two, three = count(1), count(2), count(3)
        c = (three - 2 * two + one) / 2
        b = two - one - 3 * c
        return Quadratic(one - b - c, b, c)

    def sum(self, lengths: Sequence[int]) -> float:
        """The cost of texts of these lengths."""
        return self.a * len(lengths) + self.b * sum(lengths) + self.c * sum(length**2 for length in lengths)


class StepFlops:
    """Counts the operations of a run's steps, by a copy of the network without weights.

    Three numbers are estimates. A hard negative text is sampled on the device, so the length of the row's own text
    stands for it: on average over a batch the two agree where negatives are as long as other texts. The number of
    masked words is the expected one. And LM's decoder is counted as if each text had an image of its own.

    Args:
        frozen: whether the whole image tower is frozen, and so shared with the teacher. A tower of which some layers
            are frozen counts as trained, and so does one with adapters.
        frozen_text: whether the whole text tower is frozen, and so shared with the teacher.
        stored, stored_text: whether the states of such a tower are stored; masked texts are computed even then.
    """

    def __init__(
        self,
        config: R2D2Config,
        objectives: Objectives,
        frozen: bool = False,
        frozen_text: bool = False,
        *,
        stored: bool = False,
        stored_text: bool = False,
    ) -> None:
        self.objectives, self.frozen, self.frozen_text = objectives, frozen, frozen_text
        self.stored, self.stored_text = stored and frozen, stored_text and frozen_text
        with torch.device("meta"):
            self.model = R2D2Model(config).eval().requires_grad_(False)
        text = config.text_config
        self.word = 2 * text.hidden_size**2 + 2 * text.hidden_size * text.vocab_size  # of the masked-language head
        self.cross = cache(self._cross)

    @cached_property
    def image(self) -> int:
        """Operations of encoding an image."""
        pixels = torch.empty(1, 3, self.model.config.image_size, self.model.config.image_size, device="meta")
        return _count(lambda: self.model.encode_image(pixels))

    @cached_property
    def text(self) -> Quadratic:
        """Operations of encoding a text, by its tokens."""
        # Not by the model itself, which asks its decoder for a prior where it is not trained.
        return Quadratic.through(lambda t: _count(lambda: TwoTowers.encode_packed(self.model, _ids(1, t), None, None)))

    @cached_property
    def decoder(self) -> Quadratic:
        """Operations of LM's decoder on a text and its image, by the text's tokens."""
        likelihood, config = self.model.likelihood, self.model.config
        assert likelihood is not None, "LM is on"
        pixels = torch.empty(1, 3, config.image_size, config.image_size, device="meta")
        with torch.no_grad():
            states = self.model.encode_image(pixels).states
        states = states[:, : kept_tokens(states.shape[1], self.objectives.lm.image_tokens)]

        def count(tokens: int) -> int:
            decoder = likelihood.decoder
            return _count(lambda: decoder.logits(decoder(_ids(1, tokens), decoder.see(states))[0]))

        return Quadratic.through(count)

    def __call__(self, lengths: list[int], words: int, progress: float) -> float:
        """Operations of a step on pairs whose texts have these lengths in tokens.

        Args:
            words: how many tokens of the batch could be masked.
            progress: share of the training that is done, in [0, 1); it decides which objectives have started.
        """
        options, count = self.objectives, len(lengths)
        active = frozenset(name for name in options.on() if progress >= getattr(options, name).start_at)
        text = self.text.sum(lengths)
        student = read = text * (2 if active & {"mlm", "fgd"} else 1)
        if active & {"fgr", "mlm"}:
            student += self.cross(count, "fgr" in active, "mlm" in active).sum(lengths) / count
        if "mlm" in active:
            student += options.mlm.probability * words * self.word
        if "lm" in active:
            unread = 1 + self.model.config.decoder_skipped_tokens  # the last has no successor, the prefix is not read
            student += self.decoder.sum([max(1, length - unread) for length in lengths])
        has_teacher = bool(active & {"tgd", "fgd"})
        images = 0 if self.stored else count * self.image * (1 if self.frozen else 3 + has_teacher)
        texts = 3 * student + text * (has_teacher and not self.frozen_text)
        saved = (2 * read if self.frozen_text else 0) + (text if self.stored_text else 0)
        return images + texts - saved

    def _cross(self, count: int, fgr: bool, mlm: bool) -> Quadratic:
        """Operations of the cross encoders on `count` pairs whose texts all have t tokens."""
        model = self.model
        rows = max(1, round(count * self.objectives.fgr.batch_share)) if fgr else 0
        ranks_all = self.objectives.fgr.negatives == "all"
        read = rows if mlm and self.objectives.fgr.enhanced_training and not ranks_all else 0
        size = model.config.image_size
        with torch.no_grad():
            image = model.encode_image(torch.empty(1, 3, size, size, device="meta"))
            images = TowerOutput(image.embed.expand(count, -1), image.states.expand(count, -1, -1))

        def at(tokens: int) -> int:
            texts = TowerOutput(images.embed, model.text_tower.get_input_embeddings()(_ids(count, tokens)))

            def work() -> None:
                if fgr and ranks_all:
                    model.rank_all(images, texts)
                elif fgr:
                    model.rank(images, texts, _index(3 * rows), _index(3 * rows), read)
                if mlm and count > read:
                    model.read_texts(images, texts, _index(count - read), _index(count - read))

            return _count(work)

        return Quadratic.through(at)


def _count(work: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def _ids(count: int, tokens: int) -> torch.Tensor:
    return torch.zeros(count, tokens, dtype=torch.long, device="meta")


def _index(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.long, device="meta")
