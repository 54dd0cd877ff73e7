"""What the server asks of the network: each function takes items of any number of requests and makes one call.

They run in the one worker thread; what they return is on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ccmb.core.device import inference
from ccmb.inference.interface import Network
from ccmb.inference.scoring import rank_pairs, ranking_scores
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.captioning.predict import PictureCaption, caption_pictures


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A text and a picture. Pairs of one request share the picture's object, which is then encoded once."""

    text: str
    picture: Image.Image


@dataclass(frozen=True, slots=True)
class PairScores:
    """What both stages say of a pair: `match` and `probability` are None without cross encoders; `score` orders."""

    cosine: float
    match: float | None
    probability: float | None
    score: float


@dataclass(frozen=True, slots=True)
class ModelWork:
    """A model, or its exported form, with the processor that belongs to it, and maybe a captioner."""

    model: Network
    processor: R2D2Processor
    captioner: tuple[R2D2Captioner, R2D2Processor] | None = None

    def embed_texts(self, texts: Sequence[str]) -> list[Tensor]:
        """(D,) each."""
        with inference(self.model):
            return list(self._texts(texts).embed)

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> list[Tensor]:
        """(D,) each."""
        with inference(self.model):
            return list(self._pictures(pictures).embed)

    def score_pairs(self, pairs: Sequence[Pair]) -> list[PairScores]:
        """Both stages on each pair."""
        texts = {text: place for place, text in enumerate(dict.fromkeys(pair.text for pair in pairs))}
        pictures = {id(pair.picture): pair.picture for pair in pairs}
        places = {name: place for place, name in enumerate(pictures)}
        text_N = torch.tensor([texts[pair.text] for pair in pairs])
        picture_N = torch.tensor([places[id(pair.picture)] for pair in pairs])
        with inference(self.model):
            of_texts, of_pictures = self._texts(list(texts)), self._pictures(list(pictures.values()))
            cosine_N = (of_texts.embed[text_N] * of_pictures.embed[picture_N]).sum(1)
            if not self.model.can_rank:
                return [PairScores(cosine, None, None, cosine) for cosine in cosine_N.tolist()]
            match = rank_pairs(self.model, of_pictures, of_texts, picture_N, text_N)
            score_N = ranking_scores(self.model, cosine_N, match)
        columns = (cosine_N, match.score, match.probability, score_N)
        return [PairScores(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def caption(self, pictures: Sequence[Image.Image]) -> list[PictureCaption]:
        """Captions by beam search, ordered by decoder and both stages."""
        assert self.captioner is not None
        return caption_pictures(*self.captioner, pictures)

    def _texts(self, texts: Sequence[str]) -> TowerOutput:
        tokens = {name: value.to(self.model.device) for name, value in self.processor.texts(texts).items()}
        return self.model.encode_text(**tokens).to("cpu")

    def _pictures(self, pictures: Sequence[Image.Image]) -> TowerOutput:
        return self.model.encode_image(self.processor.images(pictures).to(self.model.device)).to("cpu")
