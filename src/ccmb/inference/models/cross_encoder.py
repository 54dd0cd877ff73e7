"""A second stage of sentence-transformers: `cross_encoder:NAME` scores pairs of a text and an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.inference.models.base import count_parameters, fingerprint
from ccmb.inference.models.sentence_transformers import open_library_model, options_of
from ccmb.inference.raw_items import RawItems, no_states, open_raw
from ccmb.inference.scoring import Match, StageScores
from ccmb.inference.stages import ImageLoader
from ccmb.inference.user_images import open_image
from ccmb.r2d2.processing import ImageInput

CROSS_ENCODER = "cross_encoder:"
OPTIONS = ("prompt", "revision", "trust_remote_code")
BATCH = 32  # pairs at a time


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a probability of a reranker's score: sigmoid((score - offset) / temperature)."""

    temperature: float
    offset: float


class ScoreRanker:
    """The base of second stages that give a pair one score, of which an offset and a temperature make a probability.

    Attributes:
        calibration: None until it is fitted or read.
    """

    can_rank = True
    has_offset = True
    ranking_rule = None
    states_dtype: torch.dtype = torch.float16

    def __init__(self) -> None:
        self.calibration: Calibration | None = None

    @property
    def match_temperature(self) -> float:
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def is_calibrated(self) -> bool:
        return self.calibration is not None

    def calibrate(self, temperature: float, offset: float = 0.0) -> None:
        """Give probabilities from now on."""
        self.calibration = Calibration(temperature, offset)

    def match(self, logit_N: Tensor) -> Match:
        """The scores as a match: both heads are the one score."""
        offset = 0.0 if self.calibration is None else self.calibration.offset
        heads_N2 = (logit_N - offset)[:, None].expand(-1, 2)
        return Match(logit_N.sigmoid(), heads_N2.sum(1), heads_N2, self.match_temperature, self.is_calibrated)


class CrossEncoderRanker(ScoreRanker):
    """A second stage over pairs as they are, in the order (text, image).

    Attributes:
        name, source, fingerprint: as a `Model` has them.
        states_width: 0: it reads images, and no states.
    """

    kind = "cross_encoder"
    states_width = 0

    def __init__(self, name: str, source: str) -> None:
        """Open a local folder or hub id.

        Args:
            source: what follows the prefix: a name, and as options `prompt`, the name of one of the model's, and those
                of `open_library_model`.

        Raises:
            UsageError: sentence-transformers is not installed, an option is unknown, or it scores several labels.
            CcmbError: it cannot be opened.
        """
        super().__init__()
        path, options = options_of(name, source, OPTIONS)
        self._model = open_library_model(name, "CrossEncoder", path, options)
        if self._model.num_labels != 1:
            raise UsageError(f"{name}: scores {self._model.num_labels} labels; a reranker has one")
        self._prompt = options.get("prompt")
        if self._prompt is not None and self._prompt not in self._model.prompts:
            raise UsageError(f"{name}: prompt={self._prompt} is no prompt of the model")
        where = str(Path(path).resolve()) if Path(path).is_dir() else path
        self.name, self.source = name, CROSS_ENCODER + where + source[len(path) :]
        self.fingerprint = fingerprint(self._model, {"kind": self.kind, "prompts": [self._prompt, self._model.prompts]})

    @property
    def parameters(self) -> int:
        return count_parameters(self._model)

    def prepare(self, image: ImageInput) -> Image.Image:
        return open_image(image)

    def encode_prepared(self, images: Sequence[Image.Image]) -> RawItems:
        return RawItems(no_states(torch.empty(len(images), 0)), list(images))

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> RawItems:
        return RawItems(no_states(torch.empty(len(names), 0)), [lambda name=name: load(name) for name in names])

    def encode_texts(self, texts: Sequence[str]) -> RawItems:
        return RawItems(no_states(torch.empty(len(texts), 0)), list(texts))

    def score_pairs(
        self, images: RawItems, texts: RawItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> StageScores:
        """The scores of N pairs picked by index; a pair's score alone orders it."""
        opened = {row: open_raw(images.raw[row]) for row in image_index_N.unique().tolist()}
        index = zip(text_index_N.tolist(), image_index_N.tolist(), strict=True)
        logit_N = self._logits([(texts.raw[text], opened[image]) for text, image in index])
        return StageScores(cosine_N, self.match(logit_N), logit_N)

    def score_texts(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """(N,) scores of pairs of a query and a passage."""
        return self._logits(pairs, "a text")

    def _logits(self, pairs: Sequence[tuple[str, Image.Image | str]], partner: str = "an image") -> Tensor:
        """Raises CcmbError: the model cannot read such pairs, as one of texts alone."""
        if not pairs:
            return torch.empty(0)
        try:
            scores: Tensor = self._model.predict(
                list(pairs),
                prompt_name=self._prompt,
                batch_size=BATCH,
                activation_fn=torch.nn.Identity(),
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        except Exception as error:  # whatever the library and the model's processor make of it
            raise CcmbError(f"{self.name}: cannot score a text with {partner} ({one_line(error)})") from None
        return scores.float().cpu()
