"""The candidates of many queries and their second stage, in the order that saves most.

Shapes: Q queries, K candidates per query, F candidates that a cascade keeps, N pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ccmb.core.progress import Advance, progress
from ccmb.inference.gallery import Gallery
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.stages import R2D2Ranker, RankScores, Reranker

SLICE = 1024  # pairs between two signs of progress


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates that the first stage hands on to the second.

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
        """Uninitialised candidates, to be filled in."""
        shape = len(query_Q), depth
        return Candidates(
            query_Q,
            torch.empty(shape, dtype=torch.long),
            torch.empty(shape),
            torch.empty(shape, dtype=torch.bool),
            torch.empty_like(query_Q),
        )


def pairs_to_rank(ranker: Reranker, depth: int) -> int:
    """How many pairs of each query are scored, by the cascade's cheap stage or by the whole one."""
    cascade = ranker.cascade
    return depth if cascade is None or cascade.keep >= depth else depth + cascade.keep


def candidate_scores(
    ranker: Reranker, gallery: Gallery, by_text: bool, candidates: Candidates, advance: Advance
) -> Tensor:
    """(Q, K) scores by which the second stage orders the candidates."""
    cascade = ranker.cascade
    item_QK, cosine_QK = candidates.item_QK, candidates.cosine_QK
    score = partial(_scores, gallery=gallery, by_text=by_text, query_Q=candidates.query_Q, advance=advance)
    if cascade is None or cascade.keep >= item_QK.shape[1]:
        return score(ranker.rank_scores, item_QK=item_QK, cosine_QK=cosine_QK)
    cheap_QK = score(cascade.scores, item_QK=item_QK, cosine_QK=cosine_QK)
    best_QF = cheap_QK.topk(cascade.keep, dim=1).indices
    whole_QF = score(ranker.rank_scores, item_QK=item_QK.gather(1, best_QF), cosine_QK=cosine_QK.gather(1, best_QF))
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
    """(Q, K), computed with the pairs of each image together."""
    item_N, query_N, cosine_N = item_QK.flatten(), query_Q[:, None].expand_as(item_QK).flatten(), cosine_QK.flatten()
    image_N, text_N = (item_N, query_N) if by_text else (query_N, item_N)
    order_N = image_N.argsort(stable=True)
    scores_N = torch.empty_like(cosine_N)
    for part in order_N.split(SLICE):
        scores_N[part] = scores(gallery.images, gallery.texts, image_N[part], text_N[part], cosine_N[part])
        advance(len(part), "")
    return scores_N.view_as(cosine_QK)


COSINES = 2**19  # held at a time


BLOCK = 2**12  # gallery items whose embeddings are read at a time


PAIRS = 2**17  # candidates that are put in the second stage's own order at a time


Direction = Literal["text_to_image", "image_to_text"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of the best right answer of every query, from 1; beyond K in the second stage it stays as pre-ranked.

    Attributes:
        pre_ranking, ranking: (Q,) integer ranks; `ranking` is None for a model without cross encoders.
        by_depth: (Q,) ranks had only so many candidates been ranked, by powers of two below K and K itself; empty for a
            model without cross encoders, and where a cascade kept some candidates from the second stage.
    """

    pre_ranking: Tensor
    ranking: Tensor | None
    by_depth: Mapping[int, Tensor] = field(default_factory=dict)


def two_stage_ranks(
    model: TwoStageModel | Reranker, gallery: Gallery, direction: Direction, depth: int, chunk: int = 64
) -> Ranks:
    """Ranks of both stages for every query of one direction.

    Args:
        depth: K >= 1, how many candidates of the first stage the second one ranks.
        chunk: most queries whose cosines are computed at a time; fewer in a large gallery.
    """
    ranker = R2D2Ranker(cast(TwoStageModel, model)) if isinstance(model, nn.Module) else cast(Reranker, model)
    by_text = direction == "text_to_image"
    queries, items = (gallery.texts, gallery.images) if by_text else (gallery.images, gallery.texts)
    depth = min(depth, len(items))
    chunk = max(1, min(chunk, COSINES // len(items)))
    first, second = [], []
    depths = depths_up_to(depth) if ranker.can_rank and ranker.cascade is None else []
    cut: dict[int, list[Tensor]] = {shallow: [] for shallow in depths}
    each, unit = (pairs_to_rank(ranker, depth), "pairs") if ranker.can_rank else (1, "queries")
    with torch.inference_mode(), progress(direction.replace("_", " "), each * len(queries), unit) as advance:
        # Of many queries together, for they share images.
        for index_Q in torch.arange(len(queries)).split(max(1, PAIRS // depth)):
            candidates = _first_stage(gallery, by_text, index_Q, depth, chunk)
            first.append(candidates.first_Q)
            if ranker.can_rank:
                scores_QK = candidate_scores(ranker, gallery, by_text, candidates, advance)
                ranks_Q = gallery.ranks(scores_QK, candidates.relevant_QK, candidates.item_QK)
                # Where no right answer is within K its first rank stays; so it does where only a tie at place K let
                # one in.
                second.append(torch.where(candidates.first_Q <= depth, ranks_Q, candidates.first_Q))
                for shallow, parts in cut.items():
                    best = (part[:, :shallow] for part in (scores_QK, candidates.relevant_QK, candidates.item_QK))
                    parts.append(torch.where(candidates.first_Q <= shallow, gallery.ranks(*best), candidates.first_Q))
            else:
                advance(len(index_Q), "")
    by_depth = {shallow: torch.cat(parts) for shallow, parts in cut.items()}
    return Ranks(torch.cat(first), torch.cat(second) if second else None, by_depth)


def depths_up_to(depth: int) -> list[int]:
    """The powers of two below a depth, and the depth itself."""
    return [*(2**power for power in range((depth - 1).bit_length())), depth]


def _first_stage(gallery: Gallery, by_text: bool, query_Q: Tensor, depth: int, chunk: int) -> Candidates:
    queries, items = (gallery.texts, gallery.images) if by_text else (gallery.images, gallery.texts)
    candidates = Candidates.empty(query_Q, depth)
    # Filled in place: small pieces that are kept would stand between large ones that are not, and memory would grow.
    for rows in torch.arange(len(query_Q)).split(chunk):
        query_C = query_Q[rows]
        query_CD = queries.embeds(slice(int(query_C[0]), int(query_C[-1]) + 1))
        cosine_CG = query_CD.new_empty(len(rows), len(items))
        for start in range(0, len(items), BLOCK):
            block = slice(start, start + BLOCK)
            cosine_CG[:, block] = query_CD @ items.embeds(block).T
        relevant_CG = gallery.relevant(by_text, query_C)
        top = cosine_CG.topk(depth, dim=1)
        candidates.item_QK[rows], candidates.cosine_QK[rows] = top.indices, top.values
        candidates.relevant_QK[rows] = relevant_CG.gather(1, top.indices)
        item_CG = torch.arange(len(items)).expand_as(cosine_CG)
        candidates.first_Q[rows] = gallery.ranks(cosine_CG, relevant_CG, item_CG)
    return candidates


def ranks_both_ways(model: TwoStageModel | Reranker, gallery: Gallery, depth: int) -> dict[Direction, Ranks]:
    """Ranks of every text among the images and of every image among the texts.

    Where texts have several images, or images none, only those of the texts, as of MUGE.
    """
    directions: tuple[Direction, ...] = ("text_to_image", "image_to_text")
    if gallery.pairs is not None:
        directions = directions[:1]
    return {direction: two_stage_ranks(model, gallery, direction, depth) for direction in directions}


def ordered_items(
    ranker: Reranker, gallery: Gallery, direction: Direction, depth: int | None, count: int, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """The best items of every query, best first, and scores that fall in this order, both (Q, count).

    Args:
        depth: how many of the first stage's candidates the second one ranks; those behind them keep the order of their
            cosines, with scores below. None: cosines alone.
        count: items a query; all if there are fewer.
    """
    by_text = direction == "text_to_image"
    queries, items = (gallery.texts, gallery.images) if by_text else (gallery.images, gallery.texts)
    count, depth = min(count, len(items)), min(depth or 0, len(items)) if ranker.can_rank else 0
    wanted = max(count, depth)
    parts = []
    with torch.inference_mode(), progress(direction.replace("_", " "), len(queries), "queries") as advance:
        for query_C in torch.arange(len(queries)).split(max(1, min(chunk, COSINES // len(items)))):
            query_CD = queries.embeds(slice(int(query_C[0]), int(query_C[-1]) + 1))
            cosine_CK, item_CK = (query_CD @ items.embed.T).topk(wanted, dim=1)
            if depth:
                first = Candidates(
                    query_C,
                    item_CK[:, :depth],
                    cosine_CK[:, :depth],
                    torch.zeros_like(item_CK[:, :depth], dtype=torch.bool),
                    torch.zeros_like(query_C),
                )
                scores_CK = candidate_scores(ranker, gallery, by_text, first, lambda *_: None)
                behind_CK = cosine_CK[:, depth:] - 2 + scores_CK.amin(1, keepdim=True)
                cosine_CK, order_CK = torch.cat([scores_CK, behind_CK], 1).sort(dim=1, descending=True, stable=True)
                item_CK = item_CK.gather(1, order_CK)
            parts.append((item_CK[:, :count], cosine_CK[:, :count]))
            advance(len(query_C), "")
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
