"""What retrieval needs of a model: embeddings of pictures and of texts and, where there is one, a second stage.

Shapes: B items, N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from ccmb.r2d2.modeling import R2D2Model, TowerOutput
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.ranking import Match, rank_pairs, ranking_scores
from ccmb.training.trainer import inference

Load = Callable[[Any], Image.Image]


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

    def rank_scores(
        self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        """(N,) scores, by which the second stage orders, of pairs picked by index; the cosines are the first one's."""


class Matcher(Ranker, Protocol):
    """A second stage that judges pairs, or the lack of one."""

    def match(self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor) -> Match:
        """What the match heads say of N pairs picked by index."""


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


@dataclass(frozen=True, slots=True)
class R2D2Ranker:
    """The cross encoders of R2D2, by the model's ranking rule, as a `Matcher`; or left out, where they know nothing."""

    model: R2D2Model
    ranks: bool = True

    @property
    def can_rank(self) -> bool:
        return self.ranks and self.model.can_rank

    def rank_scores(
        self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        match = self.match(images, texts, image_index_N, text_index_N)
        with inference(self.model):
            return ranking_scores(self.model, cosine_N, match)

    def match(self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor) -> Match:
        with inference(self.model):
            return rank_pairs(self.model, images, texts, image_index_N, text_index_N)
