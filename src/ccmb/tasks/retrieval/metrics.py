"""Two-stage retrieval: pre-ranking by cosine, ranking of the top k by the model's rule (see `ccmb.inference.scoring`).

Shapes: Q queries, G gallery items, K candidates per query. Nothing of size Q x G is ever held: queries go in chunks,
the smaller the larger the gallery, and only their best K candidates and the place of the right answers are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.inference.gallery import Gallery
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.stages import Reranker
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.tasks.common.resampling import DRAWS, draw_means, gain

RECALLS = (1, 5, 10)


def recalls(ranks_Q: Tensor) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent."""
    return {name: round(value, 2) for name, value in zip(_NAMES, raw_recalls(ranks_Q), strict=True)}


_NAMES = tuple(f"R@{k}" for k in RECALLS)


def raw_recalls(ranks_Q: Tensor) -> list[float]:
    """R@1, R@5 and R@10 in percent, not rounded."""
    return [100 * float((ranks_Q <= k).double().mean()) for k in RECALLS]


def mean_recall(ranks_of: Iterable[Tensor]) -> float | None:
    """The mean of all recalls of one stage in percent, not rounded; None where there are none.

    Args:
        ranks_of: (Q,) of each direction.
    """
    values = [value for ranks_Q in ranks_of for value in raw_recalls(ranks_Q)]
    return sum(values) / len(values) if values else None


def bootstrap_gain(
    before_Q: Tensor, after_Q: Tensor, unit_Q: Tensor | None = None, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Mean and 95 % interval of the gain in R@1 in points.

    Args:
        unit_Q: what each query is drawn with, such as the image of a text, whose texts hang together; by default
            each is drawn alone.
    """
    unit_Q = torch.arange(len(before_Q)) if unit_Q is None else unit_Q
    difference_Q = 100 * ((after_Q <= 1).double() - (before_Q <= 1).double())
    count_G = torch.bincount(unit_Q).double()
    sums_G = torch.zeros_like(count_G).index_add_(0, unit_Q, difference_Q)
    drawn = draw_means(sums_G[:, None].numpy(), count_G[:, None].numpy(), draws, seed)[:, 0]
    return gain(float(difference_Q.mean()), drawn, int((count_G > 0).sum()))


def retrieval_report(model: TwoStageModel | Reranker, gallery: Gallery, depth: int) -> dict[str, Any]:
    """Both stages in both directions, mean recall, and what ranking gains."""
    return report_of_ranks(ranks_both_ways(model, gallery, depth), gallery, depth)


def report_of_ranks(ranks_of: dict[Direction, Ranks], gallery: Gallery, depth: int) -> dict[str, Any]:
    """The report of given ranks."""
    report: dict[str, Any] = {"gallery": len(gallery.images), "texts": len(gallery.texts), "depth": depth}
    report["convention"] = gallery.convention
    report["equal_texts"] = 0 if gallery.equal is None else gallery.equal.count
    by_stage: dict[str, list[Tensor]] = {"pre_ranking": [], "ranking": []}
    for direction, ranks in ranks_of.items():
        report[direction] = {}
        for stage, of_stage in (("pre_ranking", ranks.pre_ranking), ("ranking", ranks.ranking)):
            report[direction][stage] = None if of_stage is None else recalls(of_stage)
            if of_stage is not None:
                by_stage[stage].append(of_stage)
        if ranks.ranking is not None and direction == "text_to_image":
            report["gain_R@1"] = bootstrap_gain(ranks.pre_ranking, ranks.ranking, resampling_unit(gallery))
    means = {stage: mean_recall(stage_ranks) for stage, stage_ranks in by_stage.items()}
    report["mean_recall"] = {stage: None if mean is None else round(mean, 2) for stage, mean in means.items()}
    return report


def resampling_unit(gallery: Gallery) -> Tensor:
    """(texts,) the unit that the bootstrap resamples each text with: its image, or itself if it has several."""
    return gallery.image_of_text if gallery.pairs is None else torch.arange(len(gallery.texts))


def hits_by_image(ranks_of: Mapping[Direction, Tensor], image_of_text: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Hits within each k, and queries, of every image in every direction: (directions, G, 3) and (directions, G).

    Args:
        ranks_of: (Q,) ranks of one stage by direction; the queries of an image are its texts, or itself.
        image_of_text: (texts,) index of each text's image; or of what else is drawn as one.
    """
    count = int(image_of_text.max()) + 1
    hits, queries = [], []
    for direction, ranks_Q in ranks_of.items():
        image_Q = image_of_text if direction == "text_to_image" else torch.arange(count)
        within_Q3 = (ranks_Q[:, None] <= torch.tensor(RECALLS)).double()
        hits.append(torch.zeros(count, len(RECALLS), dtype=torch.double).index_add_(0, image_Q, within_Q3).numpy())
        queries.append(torch.bincount(image_Q, minlength=count).double().numpy())
    return np.stack(hits), np.stack(queries)


def bootstrap_recalls(hits_DG3: np.ndarray, queries_DG: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, directions, 3) recalls in percent of images drawn with replacement, each with all its queries.

    Texts of one image hang together, so that it is images that are drawn. Equal seeds draw the same images of
    galleries of one size: differences between models are then paired.
    """
    hits_GK = np.concatenate(list(hits_DG3), axis=1)
    queries_GK = np.repeat(queries_DG.T, len(RECALLS), axis=1)
    return 100 * draw_means(hits_GK, queries_GK, draws, seed).reshape(-1, len(hits_DG3), len(RECALLS))
