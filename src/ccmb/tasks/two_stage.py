"""What retrieval needs of a model: embeddings of pictures and of texts and, where there is one, a second stage.

Shapes: B items, N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from ccmb.choices import Precision
from ccmb.r2d2.items import Items
from ccmb.r2d2.modeling import R2D2Model, TowerOutput
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.ranking import Match, in_bf16, preview_pairs, rank_pairs, ranking_scores
from ccmb.training.trainer import inference, native_bf16

Load = Callable[[Any], Image.Image]
RankScores = Callable[[Items, Items, Tensor, Tensor, Tensor], Tensor]


class Encoder(Protocol):
    """A first stage: the cosine of an image's and a text's embedding orders. What it returns is on the CPU."""

    def encode_images(self, names: Sequence[Any], load: Load) -> TowerOutput:
        """Encode B pictures; `load` opens one by its name."""

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        """Encode B texts."""


class Ranker(Protocol):
    """A second stage, or the lack of one."""

    @property
    def can_rank(self) -> bool:
        """Whether there is one."""

    @property
    def cascade(self) -> Cascade | None:
        """What is asked first, if not all candidates are to be ranked."""

    def rank_scores(
        self, images: Items, texts: Items, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        """(N,) scores, by which the second stage orders, of pairs picked by index; the cosines are the first one's."""


@dataclass(frozen=True, slots=True)
class Cascade:
    """A cheap second stage in front of the whole one.

    Attributes:
        scores: what `Ranker.rank_scores` does, cheaply.
        keep: how many candidates of a query, the best by these scores, the whole second stage then orders; the others
            come after them in the order of these scores.
    """

    scores: RankScores
    keep: int


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How a second stage is computed.

    Attributes:
        precision: of the cross encoders; the towers, and so the first stage, are always of the model's own precision.
        cascade: for how many candidates of a query both cross encoders are asked; the text-image encoder, which costs a
            tenth, chooses them. None asks both for all.
    """

    precision: Precision = "fp32"
    cascade: int | None = None

    def on(self, model: R2D2Model) -> RankOptions:
        """The same with the precision that `auto` comes to on the model's device."""
        if self.precision != "auto":
            return self
        return RankOptions("bf16" if native_bf16(model.device) else "fp32", self.cascade)


@dataclass(frozen=True, slots=True)
class R2D2Encoder:
    """The towers of R2D2 as an `Encoder`."""

    model: R2D2Model
    processor: R2D2Processor

    def encode_images(self, names: Sequence[Any], load: Load) -> TowerOutput:
        pixels = self.processor.images([load(name) for name in names])
        with inference(self.model):
            return self.model.encode_image(pixels.to(self.model.device)).to("cpu")

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        encoded = {name: value.to(self.model.device) for name, value in self.processor.texts(texts).items()}
        with inference(self.model):
            return self.model.encode_text(**encoded).to("cpu")


EXACT = RankOptions()


class R2D2Ranker:
    """The cross encoders of R2D2, by the model's ranking rule, as a `Ranker`."""

    def __init__(self, model: R2D2Model, options: RankOptions = EXACT) -> None:
        self._given, self.options = model, options.on(model)

    @cached_property
    def _model(self) -> R2D2Model:
        return in_bf16(self._given) if self.options.precision == "bf16" else self._given

    @property
    def can_rank(self) -> bool:
        return self._given.can_rank

    @property
    def cascade(self) -> Cascade | None:
        keep = self.options.cascade
        return None if keep is None else Cascade(partial(self._scores, preview_pairs), keep)

    def rank_scores(
        self, images: Items, texts: Items, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        return self._scores(rank_pairs, images, texts, image_index_N, text_index_N, cosine_N)

    def _scores(
        self,
        match: Callable[..., Match],
        images: Items,
        texts: Items,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor,
    ) -> Tensor:
        with inference(self._model):
            found = match(self._model, images, texts, image_index_N, text_index_N)
            return ranking_scores(self._model, cosine_N, found)
