"""The example searches and minimal pairs of the report, with the results of both stages, as plain values.

Half of the examples are sampled from those that ranking fixed, half from all; a few that ranking made worse are added.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from ccmb.inference.stages import R2D2Ranker
from ccmb.r2d2.modeling import R2D2Model
from ccmb.tasks.retrieval.evaluate import Evaluation

Chosen = list[tuple[str, int]]
IMAGES_A_ROW = 5


def gather_examples(evaluation: Evaluation, model: R2D2Model, depth: int, seed: int) -> dict[str, Any]:
    """Example searches by text and example minimal pairs of one evaluation, ready for JSON.

    Args:
        depth: number of candidates that the second stage ranks, as in the evaluation.
        seed: the same seed samples the same examples.
    """
    return {
        "seed": seed,
        "searches": _searches(evaluation, model, depth, seed),
        "minimal_pairs": _minimal_pairs(evaluation, seed),
    }


def choose(right_before: Sequence[bool], right_after: Sequence[bool], count: int, worse: int, seed: int) -> Chosen:
    """Sample examples as (reason, index): `count` that are "mended" or "random", and up to `worse` that are "worsened".

    Up to half of `count` are sampled from those that were wrong before and are right after; the others from all.
    """
    rng = random.Random(seed)
    pairs = list(enumerate(zip(right_before, right_after, strict=True)))
    fixed = [index for index, (before, after) in pairs if after and not before]
    worsened = [index for index, (before, after) in pairs if before and not after]
    chosen: Chosen = [("mended", index) for index in rng.sample(fixed, min(count // 2, len(fixed)))]
    anything = rng.sample(range(len(pairs)), len(pairs))
    taken = {index for _, index in chosen}
    others = [index for index in anything if index not in taken][: count - len(chosen)]
    taken.update(others)
    chosen += [("random", index) for index in others]
    left = [index for index in worsened if index not in taken]
    return chosen + [("worsened", index) for index in rng.sample(left, min(worse, len(left)))]


def _searches(evaluation: Evaluation, model: R2D2Model, depth: int, seed: int, count: int = 6, worse: int = 2) -> Any:
    ranks = evaluation.ranks["text_to_image"]
    before = ranks.pre_ranking.tolist()
    after = before if ranks.ranking is None else ranks.ranking.tolist()
    first, second = [rank == 1 for rank in before], [rank == 1 for rank in after]
    shown = []
    for why, text in choose(first, second, count, worse, seed):
        target = int(evaluation.gallery.image_of_text[text])
        rows = _best_images(evaluation, model, text, depth)
        shown.append(
            {
                "why": why,
                "text": evaluation.texts[text],
                "picture": evaluation.samples[target].image,
                "rank": {"pre_ranking": before[text], "ranking": None if ranks.ranking is None else after[text]},
                **{stage: [evaluation.samples[index].image for index in row] for stage, row in rows.items()},
            }
        )
    return {
        "queries": len(before),
        "mended": sum(b and not a for a, b in zip(first, second, strict=True)),
        "worsened": sum(a and not b for a, b in zip(first, second, strict=True)),
        "shown": shown,
    }


def _best_images(evaluation: Evaluation, model: R2D2Model, text: int, depth: int) -> dict[str, list[int]]:
    """The indices of the best images of a text, by stage."""
    gallery = evaluation.gallery
    cosine_G = gallery.images.embed @ gallery.texts.embed[text]
    top = cosine_G.topk(min(depth, len(cosine_G)))
    rows = {"pre_ranking": top.indices[:IMAGES_A_ROW].tolist()}
    if model.can_rank:
        pairs_K = top.indices, torch.full_like(top.indices, text)
        scores = R2D2Ranker(model).score_pairs(gallery.images, gallery.texts, *pairs_K, top.values)
        order = scores.ranking.argsort(descending=True, stable=True)
        rows["ranking"] = top.indices[order][:IMAGES_A_ROW].tolist()
    return rows


def _minimal_pairs(evaluation: Evaluation, seed: int, count: int = 6, worse: int = 2) -> list[dict[str, Any]]:
    scores = evaluation.minimal_pair_scores
    if scores is None:
        return []
    stages = scores.stages
    right = {stage: (values[:, 0] > values[:, 1]).tolist() for stage, values in stages.items()}
    return [
        {
            "why": why,
            "picture": evaluation.samples[pair.image_index].image,
            "text": pair.text,
            "false_text": pair.false_text,
            "swap": pair.swap,
            "scores": {stage: [round(float(score), 4) for score in values[index]] for stage, values in stages.items()},
            "right": {stage: right[stage][index] for stage in stages},
        }
        for why, index in choose(right["pre_ranking"], right.get("ranking", right["pre_ranking"]), count, worse, seed)
        for pair in [evaluation.minimal_pairs[index]]
    ]
