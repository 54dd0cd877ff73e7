"""The calls of the model: each method takes the items of any number of requests and makes one call.

The methods run in the one worker thread; their results are on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ccmb.inference.models.base import Model
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.scoring import PairScore
from ccmb.inference.user_images import Prepared
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.captioning.predict import ImageCaption, caption_images


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A text and an image. Pairs of one request share the image's object, which is then encoded once."""

    text: str
    image: Prepared


@dataclass(frozen=True, slots=True)
class ModelWork:
    """A model, and maybe a captioner."""

    model: Model
    captioner: tuple[R2D2Captioner, R2D2Processor] | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The two stages of the model."""
        return Pipeline(self.model, self.model, self.model.name)

    def embed_texts(self, texts: Sequence[str]) -> list[Tensor]:
        """The embedding (D,) of each text."""
        return list(self.pipeline.encode_texts(texts, len(texts)).embed)

    def embed_images(self, images: Sequence[Prepared]) -> list[Tensor]:
        """The embedding (D,) of each image."""
        return list(self.pipeline.encode_images(images, len(images)).embed)

    def score_pairs(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """The scores of both stages for each pair."""
        return self.pipeline.score([(pair.text, pair.image) for pair in pairs], len(pairs))

    def caption(self, images: Sequence[Image.Image]) -> list[ImageCaption]:
        """Captions by beam search, ordered by decoder and both stages."""
        assert self.captioner is not None
        return caption_images(*self.captioner, images)
