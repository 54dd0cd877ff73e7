"""The candidates of many queries and their second stage, in the order that saves most.

Shapes: Q queries, K candidates per query, F candidates that a cascade keeps, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ccmb.progress import Advance
from ccmb.tasks.two_stage import Ranker, RankScores

if TYPE_CHECKING:
    from ccmb.tasks.retrieval import Gallery

SLICE = 1024  # pairs between two signs of progress


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the first stage hands on.

    Attributes:
        query_Q: which queries.
        item_QK, cosine_QK, relevant_QK: their candidates by falling cosine, and which are right answers.
        first_Q: rank of the best right answer in the whole gallery.
    """

    query_Q: Tensor
    item_QK: Tensor
    cosine_QK: Tensor
    relevant_QK: Tensor
    first_Q: Tensor

    @staticmethod
    def empty(query_Q: Tensor, depth: int) -> Candidates:
        """To be filled in."""
        shape = len(query_Q), depth
        return Candidates(
            query_Q,
            torch.empty(shape, dtype=torch.long),
            torch.empty(shape),
            torch.empty(shape, dtype=torch.bool),
            torch.empty_like(query_Q),
        )


def pairs_to_rank(ranker: Ranker, depth: int) -> int:
    """How many pairs of each query are scored, by the cascade's cheap stage or by the whole one."""
    cascade = ranker.cascade
    return depth if cascade is None or cascade.keep >= depth else depth + cascade.keep


def candidate_scores(ranker: Ranker, gallery: Gallery, by_text: bool, found: Candidates, advance: Advance) -> Tensor:
    """(Q, K) what the second stage orders the candidates by."""
    cascade = ranker.cascade
    pairs = found.item_QK, found.cosine_QK
    if cascade is None or cascade.keep >= found.item_QK.shape[1]:
        return _scores(ranker.rank_scores, gallery, by_text, found.query_Q, *pairs, advance)
    cheap_QK = _scores(cascade.scores, gallery, by_text, found.query_Q, *pairs, advance)
    best_QF = cheap_QK.topk(cascade.keep, dim=1).indices
    item_QF, cosine_QF = (of.gather(1, best_QF) for of in pairs)
    whole_QF = _scores(ranker.rank_scores, gallery, by_text, found.query_Q, item_QF, cosine_QF, advance)
    behind_QK = cheap_QK - cheap_QK.amax(1, keepdim=True) + whole_QF.amin(1, keepdim=True) - 1
    return behind_QK.scatter(1, best_QF, whole_QF)


def _scores(
    scores: RankScores,
    gallery: Gallery,
    by_text: bool,
    query_Q: Tensor,
    item_QK: Tensor,
    cosine_QK: Tensor,
    advance: Advance,
) -> Tensor:
    """(Q, K), computed with the pairs of each picture together."""
    item_N, query_N, cosine_N = item_QK.flatten(), query_Q[:, None].expand_as(item_QK).flatten(), cosine_QK.flatten()
    image_N, text_N = (item_N, query_N) if by_text else (query_N, item_N)
    order_N = image_N.argsort(stable=True)
    scores_N = torch.empty_like(cosine_N)
    for part in order_N.split(SLICE):
        scores_N[part] = scores(gallery.images, gallery.texts, image_N[part], text_N[part], cosine_N[part])
        advance(len(part), "")
    return scores_N.view_as(cosine_QK)
