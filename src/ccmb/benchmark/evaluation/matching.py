"""Measuring matching: how well a model predicts the labels of image-text pairs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ccmb.benchmark.evaluation.measurement import Measurement, Readable
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import Matching
from ccmb.data.images.source import ImageSource
from ccmb.data.labelled_pairs import label_of
from ccmb.data.sample import Sample
from ccmb.datasets.matching import open_labelled
from ccmb.inference.models.base import Model
from ccmb.inference.pair_scores import score_labelled
from ccmb.tasks.common.datasets import revision
from ccmb.tasks.matching.metrics import matching_report


@dataclass(frozen=True, slots=True)
class MatchingSet:
    """One split of labelled pairs; see `RetrievalSet`. The revision depends on the labels too."""

    family: ClassVar[str] = "matching"
    name: str
    split: str
    samples: list[Sample]
    images: ImageSource
    revision: str


def open_matching_set(name: str, path: Path, split: str, images: Path | None) -> MatchingSet:
    """Open a file of labelled pairs, or the folder of a published set.

    Raises:
        UsageError, CcmbError: the data is missing or faulty; the message names it.
    """
    samples, source = open_labelled(path, split, images, name)
    labels = json.dumps([label_of(sample) for sample in samples]).encode()
    return MatchingSet(name, split, samples, source, revision(samples, labels, source))


def measure(model: Model, opened: MatchingSet, readable: Readable, settings: Settings) -> Measurement[Matching]:
    """All metrics of a model on a set; see `BenchmarkFamily`."""
    samples, unreadable = readable.samples
    started = time.monotonic()
    scores = score_labelled(model, model, samples, opened.images.load)
    report = matching_report(scores, model.match_temperature, draws=settings.draws, seed=settings.seed)
    by_stage = {"pre_ranking": scores.cosine} | ({"ranking": scores.score} if model.can_rank else {})
    section = Matching(
        **report,
        labels=scores.label.tolist(),
        scores={stage: [round(score, 7) for score in of_stage.tolist()] for stage, of_stage in by_stage.items()},
    )
    images, texts = report["pictures"], len({sample.texts[0] for sample in samples})
    seconds = {"total": round(time.monotonic() - started, 2)}
    return Measurement(
        section=section,
        resampling_unit=scores.image.tolist(),
        images=images,
        texts=texts,
        unreadable=unreadable,
        seconds=seconds,
    )
