"""`ccmb evaluate` on graded pairs: does the model's score agree with what people said of each pair?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import readable_samples
from ccmb.inference.models.base import Model
from ccmb.inference.pair_scores import PairScores, score_labelled
from ccmb.inference.scoring import match_probability
from ccmb.tasks.judgement.grades import Graded
from ccmb.tasks.judgement.metrics import agreement, graded_report


@dataclass(frozen=True, slots=True)
class GradedPairs:
    """Graded pairs and their images."""

    path: Path
    pairs: Sequence[Graded]
    images: ImageSource


def predict(model: Model, data: GradedPairs) -> tuple[list[Graded], PairScores, list[str]]:
    """The pairs whose images can be read, their scores, and a line for each other image."""
    samples = [replace(pair.sample, extra={"label": 0}) for pair in data.pairs]  # no label is known; none is read
    good, unreadable = readable_samples(samples, data.images)
    names = {sample.image for sample in good}
    kept = [pair for pair in data.pairs if pair.sample.image in names]
    return kept, score_labelled(model, model, good, data.images.load), unreadable


def evaluate_graded(model: Model, data: GradedPairs) -> dict[str, Any]:
    """The report: the last stage's score, and the cosine's where there is a second stage.

    Raises:
        CcmbError: no image can be read, or all pairs have one grade.
    """
    started = time.monotonic()
    kept, scores, unreadable = predict(model, data)
    image_N = scores.image.numpy()
    cosine_N = _numbers(scores.cosine)
    report: dict[str, Any] = {
        "pairs": len(kept),
        "pictures": len(np.unique(image_N)),
        "texts": len({pair.sample.texts[0] for pair in kept}),
        "judgements": sum(len(pair.grades) for pair in kept),
        "stage": "pre_ranking" if scores.head_log_odds is None else "ranking",
        "ceiling": agreement(kept),
    }
    if scores.head_log_odds is None:
        report |= graded_report(kept, cosine_N, image_N)
    else:
        temperature = model.match_temperature if model.is_calibrated else None
        log_odds_N2 = scores.head_log_odds.double()
        probability_N = None if temperature is None else _numbers(match_probability(log_odds_N2, temperature))
        # The mean log-odds order as the match score does, and do not run into its ends.
        report |= graded_report(kept, _numbers(log_odds_N2.mean(1)), image_N, probability_N)
        report["pre_ranking"] = graded_report(kept, cosine_N, image_N)
    return {
        "judgement": report,
        "unreadable": unreadable,
        "seconds": {"evaluate": round(time.monotonic() - started, 1)},
    }


def _numbers(values_N: Tensor) -> np.ndarray:
    return np.asarray(values_N.double().numpy())
