"""`ccmb evaluate` on labelled pairs: does the model tell texts that fit an image from those that do not?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.inference.models.base import Model
from ccmb.inference.pair_scores import PairScores, score_labelled
from ccmb.tasks.matching.metrics import matching_report

Labelled = tuple[Sequence[Sample], ImageSource]


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """The pairs to score, and those of another split to fit threshold and temperature on."""

    scored: Labelled
    fit: Labelled | None = None


def evaluate_matching(model: Model, labelled: Labelled, fit: Labelled | None = None) -> dict[str, Any]:
    """The report of one split of labelled pairs; images that cannot be read are listed in it.

    Args:
        labelled: pairs and their images.
        fit: those of another split, to fit threshold and temperature on.

    Raises:
        CcmbError: no image can be read, or all pairs have one label.
    """
    started = time.monotonic()
    scores, unreadable = predict(model, labelled)
    fitted_on = None if fit is None else predict(model, fit)[0]
    report = matching_report(scores, model.match_temperature, fitted_on)
    seconds = {"evaluate": round(time.monotonic() - started, 1)}
    return {"matching": report, "unreadable": unreadable, "seconds": seconds}


def predict(model: Model, labelled: Labelled) -> tuple[PairScores, list[str]]:
    """Scores of all pairs whose images can be read, and a line for each other image."""
    samples, unreadable = readable_samples(*labelled)
    return score_labelled(model, model, samples, labelled[1].load), unreadable
