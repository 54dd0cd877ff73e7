"""Texts that differ in one attribute: whether a model prefers the right one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.inference.items import EncodedItems
from ccmb.inference.models.base import Model
from ccmb.inference.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """An image's true text and a false one that differs in one swap (`swap` says of what)."""

    image_index: int
    text: str
    false_text: str
    swap: str


@dataclass(frozen=True, slots=True)
class MinimalPairScores:
    """Scores (P, 2) of the true and the false text, by which each stage orders; `ranking` is None without cross
    encoders."""

    cosine: Tensor
    ranking: Tensor | None

    @property
    def stages(self) -> dict[str, Tensor]:
        """The scores by the name of their stage."""
        second = {} if self.ranking is None else {"ranking": self.ranking}
        return {"pre_ranking": self.cosine, **second}


def score_minimal_pairs(
    model: Model,
    images: EncodedItems,
    pairs: Sequence[MinimalPair],
    batch: int = 256,
) -> MinimalPairScores:
    """Score both texts of every pair against its image; `images` are the encoded images."""
    pipeline = Pipeline(model, model)
    parts = []
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        texts = pipeline.encode_texts([text for pair in chunk for text in (pair.text, pair.false_text)], 2 * batch)
        image_N = torch.tensor([pair.image_index for pair in chunk]).repeat_interleave(2)
        parts.append(pipeline.scorer.score_pairs(images, texts, image_N, torch.arange(len(texts))))
    cosine_P2 = torch.cat([part.cosine for part in parts]).view(-1, 2)
    ranking_P2 = torch.cat([part.ranking for part in parts]).view(-1, 2)
    return MinimalPairScores(cosine_P2, ranking_P2 if model.can_rank else None)


def minimal_pair_report(pairs: Sequence[MinimalPair], scores: MinimalPairScores) -> dict[str, object]:
    """Share of pairs, in percent, whose true text scores strictly higher, by stage and by kind of swap."""
    report: dict[str, object] = {"pairs": len(pairs)}
    for stage, of_stage in scores.stages.items():
        right = (of_stage[:, 0] > of_stage[:, 1]).tolist()
        by_swap: dict[str, list[bool]] = defaultdict(list)
        for pair, is_right in zip(pairs, right, strict=True):
            by_swap["all"].append(is_right)
            by_swap[pair.swap].append(is_right)
        report[stage] = {
            swap: round(100 * sum(outcomes) / len(outcomes), 2) for swap, outcomes in sorted(by_swap.items())
        }
    return report
