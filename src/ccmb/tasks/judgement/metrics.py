"""How well scores agree with human grades: rank correlations, AUC at each threshold, graded nDCG, and a ceiling.

Judges are averaged; `each_judgement` counts every judge's grade as a pair of its own, as CLIPScore's Flickr8k-Expert
does (Hessel et al. 2021, arXiv 2104.08718). Intervals are 95 %, over images.

Shapes: N pairs, J judgements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ccmb.core.errors import CcmbError
from ccmb.tasks.common.resampling import Metric, bounded_interval, draw_metrics, on_all
from ccmb.tasks.judgement.correlation import kendall_tau_b, kendall_tau_c, spearman
from ccmb.tasks.judgement.grades import Graded
from ccmb.tasks.judgement.table import NDCG_CUT
from ccmb.tasks.matching.calibration_error import estimate_calibration_error
from ccmb.tasks.matching.metrics import weighted_auc
from ccmb.tasks.rankings.metrics import ndcg

DRAWS = 500
DIGITS = 4
Values = dict[str, Any]
SIGNED = (-1.0, 1.0)  # bounds of correlations


def graded_report(
    graded: Sequence[Graded],
    score_N: np.ndarray,
    image_N: np.ndarray,
    probability_N: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Values:
    """The metrics of one score.

    Args:
        image_N: the number of each pair's image, from 0.
        probability_N: calibrated probabilities of a match, if there are any.

    Raises:
        CcmbError: all pairs have one grade, or scores are no numbers.
    """
    mean_N = np.array([pair.mean for pair in graded])
    if len(np.unique(mean_N)) < 2:
        raise CcmbError(f"all {len(mean_N)} pairs have the grade {mean_N[0]:g}; there must be different ones")
    if not np.isfinite(score_N).all():
        raise CcmbError("the model's scores are not finite numbers: there is nothing to measure")
    values = _measured(_correlations(score_N, mean_N), image_N, draws, seed, SIGNED)
    pair_J = np.repeat(np.arange(len(graded)), [len(pair.grades) for pair in graded])
    grade_J = np.array([grade for pair in graded for grade in pair.grades])
    each = _measured(_correlations(score_N[pair_J], grade_J), image_N[pair_J], draws, seed, SIGNED)
    return {
        **values,
        "each_judgement": each,
        "auc": _aucs(score_N, mean_N, image_N, draws, seed),
        "calibration_error": _calibration(probability_N, mean_N, image_N),
        f"nDCG@{NDCG_CUT}": graded_ndcg(graded, score_N),
    }


def thresholds(mean_N: np.ndarray) -> list[float]:
    """Least mean grades that may count as a match: whole numbers above the lowest, or a half of grades 0 and 1."""
    low, high = float(mean_N.min()), float(mean_N.max())
    whole = [float(grade) for grade in range(int(np.floor(low)) + 1, int(np.ceil(high)) + 1) if low < grade <= high]
    return whole if high > 1 else [0.5]


def agreement(graded: Sequence[Graded]) -> Values | None:
    """Each judge against the mean of the others, averaged over judges: what a model can hope for; None of one judge.

    Judges are told apart by their place in a pair's grades; of pairs with fewer, those places are missing.
    """
    rows = []
    for judge in range(max(len(pair.grades) for pair in graded)):
        both = [pair for pair in graded if len(pair.grades) > max(1, judge)]
        own = np.array([pair.grades[judge] for pair in both])
        others = np.array([np.mean([*pair.grades[:judge], *pair.grades[judge + 1 :]]) for pair in both])
        if len(both) > 1 and len(np.unique(own)) > 1 and len(np.unique(others)) > 1:
            rows.append({name: on_all(metric, len(both)) for name, metric in _correlations(own, others).items()})
    if not rows:
        return None
    return {"judges": len(rows)} | {
        name: round(float(np.mean([row[name] for row in rows])), DIGITS) for name in rows[0]
    }


def graded_ndcg(graded: Sequence[Graded], score_N: np.ndarray) -> dict[str, dict[str, float | int] | None]:
    """nDCG with mean grades above the lowest as gains: of the images of each text, and of the texts of each image.

    A text or image with fewer than two pairs, or without a gain, is left out.
    """
    lowest = min(pair.mean for pair in graded)
    result: dict[str, dict[str, float | int] | None] = {}
    for way, key in (("text_to_image", lambda pair: pair.sample.texts[0]), ("image_to_text", _image)):
        rows: dict[str, list[int]] = {}
        for row, pair in enumerate(graded):
            rows.setdefault(key(pair), []).append(row)
        values = []
        for own in rows.values():
            gains = {row: graded[row].mean - lowest for row in own}
            if len(own) > 1 and any(gains.values()):
                ranked = [gains[row] for row in sorted(own, key=lambda row: -score_N[row])]
                values.append(ndcg(ranked, gains.values(), NDCG_CUT))
        result[way] = {"value": round(float(np.mean(values)), DIGITS), "queries": len(values)} if values else None
    return result


def _image(pair: Graded) -> str:
    return pair.sample.image


def _correlations(score_N: np.ndarray, grade_N: np.ndarray) -> dict[str, Metric]:
    made = {"tau_b": kendall_tau_b, "tau_c": kendall_tau_c, "spearman": spearman}
    return {name: make(score_N, grade_N) for name, make in made.items()}


def _aucs(score_N: np.ndarray, mean_N: np.ndarray, image_N: np.ndarray, draws: int, seed: int) -> Values:
    """By threshold, how well the score tells pairs of at least that mean grade from the others."""
    metrics = {}
    for threshold in thresholds(mean_N):
        label_N = torch.from_numpy((mean_N >= threshold).astype(np.int64))
        if 0 < int(label_N.sum()) < len(label_N):
            metrics[f"{threshold:g}"] = weighted_auc(torch.from_numpy(score_N), label_N)
    return _measured(metrics, image_N, draws, seed, (0.0, 1.0))


def _calibration(probability_N: np.ndarray | None, mean_N: np.ndarray, image_N: np.ndarray) -> Values | None:
    """By threshold, the expected calibration error of the model's probabilities."""
    if probability_N is None:
        return None
    values = {}
    for threshold in thresholds(mean_N):
        label_N = torch.from_numpy((mean_N >= threshold).astype(np.int64))
        error = estimate_calibration_error(torch.from_numpy(probability_N), label_N, torch.from_numpy(image_N))
        values[f"{threshold:g}"] = {
            "value": round(error.value, DIGITS), "low": round(error.low, DIGITS), "high": round(error.high, DIGITS),
        }  # fmt: skip
    return values


def _measured(
    metrics: dict[str, Metric], image_N: np.ndarray, draws: int, seed: int, bounds: tuple[float, float]
) -> Values:
    if not metrics:
        return {}
    drawn = draw_metrics(list(metrics.values()), image_N, draws, seed)
    units = len(np.unique(image_N))
    values = {}
    for (name, metric), of_name in zip(metrics.items(), drawn.T, strict=True):
        value = on_all(metric, len(image_N))
        low, high = bounded_interval(value, of_name, units, bounds, DIGITS)
        values[name] = {"value": round(value, DIGITS), "low": low, "high": high}
    return values
