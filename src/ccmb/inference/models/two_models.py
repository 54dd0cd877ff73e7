"""Two models as two stages: any model pre-ranks, and any ranker orders its best candidates.

What the ranker reads of items goes along with the first model's embeddings of them: token states of a ranker that has
towers of its own, such as R2D2, and texts and images themselves for one that has none.

Shapes: B items, N pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ccmb.core.choices import PLUS, RankingRule
from ccmb.inference.items import EncodedItems
from ccmb.inference.models.base import Model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.raw_items import RawItems, no_states
from ccmb.inference.scoring import StageScores, pair_cosines
from ccmb.inference.stages import EXACT_OPTIONS, Cascade, ImageLoader, RankOptions
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput

_BETWEEN_EQUALS = 1e-6  # of a cosine: less than any difference that a ranker makes


class PairRanker(Protocol):
    """A second stage with what it reads of images and texts; `R2D2Stages` is one too."""

    name: str

    @property
    def source(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def parameters(self) -> int | None: ...
    @property
    def states_width(self) -> int: ...
    @property
    def states_dtype(self) -> torch.dtype: ...
    @property
    def ranking_rule(self) -> RankingRule | None: ...
    @property
    def match_temperature(self) -> float | None: ...
    @property
    def is_calibrated(self) -> bool: ...
    @property
    def has_offset(self) -> bool: ...
    def calibrate(self, temperature: float, offset: float = 0.0) -> None: ...
    def prepare(self, image: ImageInput) -> Any: ...
    def encode_prepared(self, images: Sequence[Any]) -> Any: ...
    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> Any: ...
    def encode_texts(self, texts: Sequence[str]) -> Any: ...
    def score_pairs(
        self, images: Any, texts: Any, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> StageScores: ...


class TwoModels:
    """A first stage and the second stage of another model, as one `Model`.

    The ranker's score alone orders: an R2D2's is its match score, without the cosine of towers that did not choose.
    """

    kind = "two models"
    can_rank = True
    cascade: Cascade | None = None
    rerank_k: int | None = None

    def __init__(self, first: Model, ranker: PairRanker, name: str = "") -> None:
        self.first, self.ranker = first, ranker
        self.name = name or f"{first.name}{PLUS}{ranker.name}"
        self.context_length = first.context_length

    @property
    def source(self) -> str:
        return self.first.source

    @property
    def weights_id(self) -> str:
        return self.first.weights_id

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.first.fingerprint} {self.ranker.fingerprint}".encode()).hexdigest()

    @property
    def embed_dim(self) -> int:
        return self.first.embed_dim

    @property
    def parameters(self) -> int | None:
        counts = self.first.parameters, self.ranker.parameters
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def states_width(self) -> int:
        return self.ranker.states_width

    @property
    def states_dtype(self) -> torch.dtype:
        return self.ranker.states_dtype

    @property
    def image_batch(self) -> int:
        return self.first.image_batch

    @property
    def options(self) -> RankOptions:
        return EXACT_OPTIONS

    @property
    def ranking_rule(self) -> RankingRule | None:
        return self.ranker.ranking_rule

    @property
    def match_temperature(self) -> float | None:
        return self.ranker.match_temperature

    @property
    def is_calibrated(self) -> bool:
        return self.ranker.is_calibrated

    @property
    def has_offset(self) -> bool:
        return self.ranker.has_offset

    def calibrate(self, temperature: float, offset: float = 0.0) -> None:
        self.ranker.calibrate(temperature, offset)

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        unknown = self.first.unknown(texts)
        if not isinstance(self.ranker, R2D2Stages):
            return unknown
        return [either or other for either, other in zip(unknown, self.ranker.unknown(texts), strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> int:
        return self.first.count_tokens(texts)

    def prepare(self, image: ImageInput) -> tuple[Any, Any]:
        """What each of the two reads."""
        return self.first.prepare(image), self.ranker.prepare(image)

    def embed_prepared(self, images: Sequence[tuple[Any, Any]]) -> Tensor:
        return self.first.embed_prepared([image for image, _ in images])

    def encode_prepared(self, images: Sequence[tuple[Any, Any]]) -> Any:
        embed_BD = self.embed_prepared(images)
        return _with_embed(self.ranker.encode_prepared([image for _, image in images]), embed_BD)

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> Any:
        embed_BD = self.first.encode_images(names, load).embed
        return _with_embed(self.ranker.encode_images(names, load), embed_BD)

    def encode_passages(self, texts: Sequence[str]) -> TowerOutput:
        return self.first.encode_passages(texts)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        return _with_embed(self.ranker.encode_texts(texts), self.first.encode_texts(texts).embed)

    def rank_scores(
        self, images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        return self.score_pairs(images, texts, image_index_N, text_index_N, cosine_N).ranking

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        if cosine_N is None:
            cosine_N = pair_cosines(images, texts, image_index_N, text_index_N)
        scores = self.ranker.score_pairs(images, texts, image_index_N, text_index_N, cosine_N)
        assert scores.match is not None, "a ranker has a second stage"
        ranking_N = scores.ranking
        if isinstance(self.ranker, R2D2Stages):
            ranking_N = scores.match.log_odds if self.ranking_rule == "log_odds" else scores.match.score
            # A decoder says nothing of texts that it cannot read: such pairs stay in the order of their cosines.
            ranking_N = ranking_N + torch.where(scores.match.log_odds == 0, _BETWEEN_EQUALS * cosine_N, 0.0)
        return StageScores(cosine_N, scores.match, ranking_N)


def _with_embed(items: TowerOutput | RawItems, embed_BD: Tensor) -> TowerOutput | RawItems:
    """What the ranker reads, under the first stage's embeddings."""
    if isinstance(items, RawItems):
        return replace(items, encoded=no_states(embed_BD))
    return TowerOutput(embed_BD, items.states, items.mask)
