"""Metrics of labelled pairs: AUC, accuracy and calibration.

A threshold or temperature is never fitted on pairs that it is then measured on: it comes from another split, or else
from the pairs of one half of the images for those of the other, both ways.

Shapes: N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.inference.pair_scores import PairScores
from ccmb.inference.scoring import match_probability
from ccmb.tasks.common.resampling import DRAWS, Metric, bounded_interval, draw_metrics, on_all
from ccmb.tasks.matching.calibration_error import CalibrationError, estimate_calibration_error
from ccmb.tasks.matching.temperature import fit_match_temperature

NAMES = ("auc", "accuracy", "accuracy_fitted", "calibration_error", "calibration_error_fitted")
DIGITS = 4


def matching_report(
    scores: PairScores,
    match_temperature: float | None = None,
    fit: PairScores | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics, shares in [0, 1], with 95 % intervals over images.

    Of a model with cross encoders they are the match score's, and `pre_ranking` holds those of the cosine; of others
    the cosine's alone, which is no probability: no accuracy at a half then, and no calibration error.

    Args:
        match_temperature: of the model as it is.
        fit: pairs of another split, to fit threshold and temperature on; by default the other half of the images.

    Returns:
        Besides counts and the `stage` that scores: `auc`; `accuracy` at a half and `calibration_error`, both of the
        model's own probability, the error corrected for bias, and `calibration_error_plain` without that, as most
        papers report it; `accuracy_fitted` at a fitted threshold and `calibration_error_fitted` at a fitted
        temperature, None where there is too little to fit them on; `interval` of each but the plain one; what was
        `fitted`, and on what.

    Raises:
        CcmbError: all pairs have one label, or scores are no numbers.
    """
    matches = int(scores.label.sum())
    if not 0 < matches < len(scores):
        kind = "a match" if matches else "no match"
        raise CcmbError(f"all {len(scores)} pairs are labelled as {kind}; to tell the two apart there must be both")
    if not scores.score.isfinite().all():
        raise CcmbError("the model's scores are not finite numbers: there is nothing to measure")
    ranks = scores.head_log_odds is not None
    counts = {"pairs": len(scores), "pictures": int(scores.image.max()) + 1, "matches": matches}
    report = {
        **counts,
        "stage": "ranking" if ranks else "pre_ranking",
        "match_temperature": match_temperature if ranks else None,
        **_metrics(scores, match_temperature, fit, draws, seed),
    }
    if ranks:
        first = _metrics(scores.without_heads(), None, fit.without_heads() if fit else None, draws, seed)
        report["pre_ranking"] = {name: first[name] for name in ("auc", "accuracy_fitted", "interval", "fitted")}
    return report


def _metrics(
    scores: PairScores, match_temperature: float | None, fit: PairScores | None, draws: int, seed: int
) -> dict[str, Any]:
    metrics = {"auc": weighted_auc(scores.score, scores.label)}
    errors = dict[str, CalibrationError]()
    if scores.head_log_odds is not None:
        probability_N = match_probability(scores.head_log_odds.double(), match_temperature or 1.0)
        metrics["accuracy"] = weighted_mean((probability_N >= 0.5) == (scores.label == 1))
        errors["calibration_error"] = estimate_calibration_error(probability_N, scores.label, scores.image)
    fitted = _fit(scores, fit, seed)
    if fitted is not None:
        metrics["accuracy_fitted"] = weighted_mean(fitted.right)
        if fitted.probability is not None:
            error = estimate_calibration_error(fitted.probability, scores.label, scores.image)
            errors["calibration_error_fitted"] = error
    known = _with_intervals(metrics, scores.image.numpy(), draws, seed)
    for name, error in errors.items():
        known[name] = round(error.value, DIGITS), (round(error.low, DIGITS), round(error.high, DIGITS))
    plain = round(errors["calibration_error"].plain, DIGITS) if "calibration_error" in errors else None
    return {
        **{name: known[name][0] if name in known else None for name in NAMES},
        "calibration_error_plain": plain,
        "interval": {name: known[name][1] for name in NAMES if name in known},
        "fitted": None if fitted is None else fitted.about,
    }


def _with_intervals(
    metrics: dict[str, Metric], image_N: np.ndarray, draws: int, seed: int
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Shares in [0, 1] with their intervals over images."""
    values = [on_all(metric, len(image_N)) for metric in metrics.values()]
    drawn = draw_metrics(list(metrics.values()), image_N, draws, seed)
    units = len(np.unique(image_N))
    return {
        name: (round(value, DIGITS), bounded_interval(value, of_name, units, (0.0, 1.0), DIGITS))
        for name, value, of_name in zip(metrics, values, drawn.T, strict=True)
    }


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Pairs at a fitted threshold and temperature.

    Attributes:
        right: (N,) whether the threshold decides each pair rightly.
        probability: (N,) at the temperature; None without cross encoders.
        about: the fitted values, and the data that they were fitted on.
    """

    right: Tensor
    probability: Tensor | None
    about: dict[str, Any]


def _fit(scores: PairScores, fit: PairScores | None, seed: int) -> _Fitted | None:
    """Fit threshold and temperature; None if the pairs to fit on lack one of the labels."""
    every_N = torch.ones(len(scores), dtype=torch.bool)
    first_N = half_of_images(scores.image, seed)
    folds = [(fit, every_N)] if fit else [(scores[first_N], ~first_N), (scores[~first_N], first_N)]
    right_N, probability_N = torch.zeros(len(scores), dtype=torch.bool), torch.zeros(len(scores), dtype=torch.double)
    thresholds, temperatures = [], []
    for part, held_out_N in folds:
        if len(part.label.unique()) < 2:
            return None
        held_out = scores[held_out_N]
        thresholds.append(best_threshold(part.score, part.label))
        right_N[held_out_N] = (held_out.score >= thresholds[-1]) == (held_out.label == 1)
        if part.head_log_odds is not None and held_out.head_log_odds is not None:
            temperatures.append(fit_match_temperature(part.head_log_odds, part.label))
            probability_N[held_out_N] = match_probability(held_out.head_log_odds.double(), temperatures[-1])
    # Result files keep these words.
    about = {"on": "another split" if fit else "the other half of the pictures", "threshold": thresholds}
    return _Fitted(right_N, probability_N if temperatures else None, about | {"temperature": temperatures or None})


def half_of_images(image_N: Tensor, seed: int) -> Tensor:
    """(N,) whether a pair's image is of the first half of all, in an order that the seed draws."""
    order = list(range(int(image_N.max()) + 1))
    Random(seed).shuffle(order)
    first_G = torch.zeros(len(order), dtype=torch.bool)
    first_G[order[::2]] = True
    return first_G[image_N]


def best_threshold(score_N: Tensor, label_N: Tensor) -> float:
    """The least score that counts as a match where most pairs are judged right; of several the middle one.

    It lies halfway between two scores, or at the lowest one where nothing is better than to take all for matches.
    """
    score, order = score_N.double().sort()
    match = (label_N[order] == 1).double()
    # By the number of pairs below the threshold: right are the non-matches below and the matches above.
    right = (
        torch.cat([match.new_zeros(1), (1 - match).cumsum(0)])
        + match.sum()
        - torch.cat([match.new_zeros(1), match.cumsum(0)])
    )
    cut = torch.ones(len(right), dtype=torch.bool)
    cut[1:-1] = score[1:] > score[:-1]  # equal scores are judged alike
    best = (right.masked_fill(~cut, -1) == right[cut].max()).nonzero().flatten()
    index = int(best[len(best) // 2])
    if index == 0:
        return float(score[0])
    if index == len(score):
        return float(torch.nextafter(score[-1], score.new_tensor(torch.inf)))
    return float((score[index - 1] + score[index]) / 2)


def weighted_auc(score_N: Tensor, label_N: Tensor) -> Metric:
    """The AUC, see `auc`, of pairs that count so many times; sorted once for all weights."""
    order = score_N.argsort().numpy()
    match = (label_N.numpy() == 1)[order]
    ties = score_N.numpy()[order]
    starts = np.flatnonzero(np.concatenate([[True], ties[1:] != ties[:-1]]))

    def metric(weight_BN: np.ndarray) -> np.ndarray:
        weight_BN = weight_BN[:, order]
        above_BS = np.add.reduceat(weight_BN * match, starts, axis=1)
        below_BS = np.add.reduceat(weight_BN * ~match, starts, axis=1)
        both_B = above_BS.sum(1) * below_BS.sum(1)
        won_B = (above_BS * (below_BS.cumsum(1) - below_BS / 2)).sum(1)
        return np.where(both_B > 0, won_B / np.maximum(both_B, 1e-300), np.nan)

    return metric


def weighted_mean(right_N: Tensor) -> Metric:
    """The share of pairs that are right."""
    right = right_N.numpy().astype(np.float64)
    return lambda weight_BN: weight_BN @ right / weight_BN.sum(1)


def auc(scores_N: Tensor, labels_N: Tensor) -> float:
    """Area under the ROC curve, in [0, 1]: the chance that a match scores higher than a non-match, ties counting half.

    Args:
        scores_N: finite scores.
        labels_N: 1 or True for a match; both kinds must be there.
    """
    match, no_match = scores_N[labels_N == 1].double(), scores_N[labels_N == 0].double().sort().values
    below = torch.searchsorted(no_match, match, right=False)
    not_above = torch.searchsorted(no_match, match, right=True)
    return float((below + not_above).double().mean() / 2 / len(no_match))
