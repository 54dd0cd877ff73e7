"""Metrics of generated images against their texts and a split, as `ccmb evaluate` reports them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.core.progress import progress
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.inference.pipeline import Pipeline
from ccmb.r2d2.generative.generator import R2D2Generator
from ccmb.r2d2.processing import R2D2Processor
from ccmb.scenes.generation import things_generated
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.common.resampling import DRAWS, bounded_interval, bounds_of, draw_means, interval
from ccmb.tasks.generation.features import BATCH, Extractor
from ccmb.tasks.generation.metrics import distances
from ccmb.tasks.generation.predict import Candidate, GeneratedImages, SamplingOptions, paint_texts


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one image for each text.

    Attributes:
        scores: (N,) of each image, in percent: the match score, or the cosine of a judge without match heads; and on
            synthetic scenes what of its thing is right, see `things_generated`.
        fid, kid: to the images that the texts go with.
    """

    scores: dict[str, np.ndarray]
    fid: float
    kid: float

    def values(self) -> dict[str, float]:
        """Their means, and the distances."""
        means = {name: round(float(values.mean()), 2) for name, values in self.scores.items()}
        return means | {"FID": round(self.fid, 4), "KID": round(self.kid, 6)}

    def draws(self, draws: int = DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
        """(draws,) of each mean: its values of texts drawn with replacement."""
        scores_NK = np.stack(list(self.scores.values()), axis=1)
        return dict(zip(self.scores, draw_means(scores_NK, np.ones((len(scores_NK), 1)), draws, seed).T, strict=True))

    def intervals(self, draws: int = DRAWS, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % interval over texts of each mean."""
        drawn = self.draws(draws, seed)
        return {
            name: bounded_interval(float(values.mean()), drawn[name], len(values), bounds_of(name))
            for name, values in self.scores.items()
        }


def prompts_of(dataset: RetrievalSet) -> list[str]:
    """The first text of each image.

    Raises:
        UsageError: the set's texts do not belong to single images.
    """
    if dataset.queries is not None:
        raise UsageError(
            f"{dataset.name}: images are painted from texts that have one of their own; here they share texts"
        )
    return [sample.texts[0] for sample in dataset.samples]


def evaluate_generation(
    model: R2D2Generator,
    processor: R2D2Processor,
    dataset: RetrievalSet,
    options: SamplingOptions,
    judge: Pipeline,
    extractor: Extractor,
) -> dict[str, Any]:
    """The report of one split: an image of the first text of each of its images. Images that cannot be read are
    listed in it.

    Args:
        judge: says how well image and text match, and chooses among candidates.
        extractor: gives the features that painted images and the split's own are compared by.

    Raises:
        UsageError: the set's texts do not belong to single images, or cannot be painted.
        CcmbError: no image can be read.
    """
    started = time.monotonic()
    samples, unreadable = readable_samples(dataset.samples, dataset.images)
    dataset = replace(dataset, samples=samples)
    generated = paint_texts(model, processor, prompts_of(dataset), options, judge)
    report = {"generation": generation_report(generated, dataset, options, judge, extractor)}
    return report | {"unreadable": unreadable, "seconds": {"evaluate": round(time.monotonic() - started, 1)}}


def generation_report(
    generated: Sequence[GeneratedImages],
    dataset: RetrievalSet,
    options: SamplingOptions,
    judge: Pipeline,
    extractor: Extractor,
) -> dict[str, Any]:
    """All metrics, in percent but for the distances.

    Returns:
        Those of the chosen images, with 95 % intervals of the means over texts; `first`, the same of the images
        that were painted first; and where there was a choice `gain`, their difference, paired over texts.
    """
    real = real_features(dataset, extractor)
    chosen = metrics_of([of_text.candidates[0] for of_text in generated], generated, real, extractor)
    report: dict[str, Any] = {
        "pictures": len(generated),
        "painting": asdict(options),
        "judge": judge.name,
        "features": extractor.name,
        **chosen.values(),
    }
    drawn = chosen.draws()
    report["interval"] = chosen.intervals()
    if options.best_of > 1:
        first = metrics_of([of_text.first for of_text in generated], generated, real, extractor)
        drawn_first = first.draws()
        report["first"] = first.values()
        report["gain"] = {}
        for name, before in drawn_first.items():
            mean = float((chosen.scores[name] - first.scores[name]).mean())
            report["gain"][name] = [round(mean, 2), *interval(drawn[name] - before, len(generated))]
    return report


def metrics_of(
    images: Sequence[Candidate], generated: Sequence[GeneratedImages], real_MD: Tensor, extractor: Extractor
) -> Metrics:
    """The metrics of one candidate of each text."""
    name = "cosine" if images[0].match_score is None else "match_score"
    scores = {name: np.array([100 * candidate.score for candidate in images])}
    shown = [candidate.image for candidate in images]
    things = things_generated(shown, [entry.text for entry in generated]) or {}
    between = distances(extractor(shown), real_MD)
    return Metrics(scores | {name: 100 * share for name, share in things.items()}, between.fid, between.kid)


def real_features(dataset: RetrievalSet, extractor: Extractor) -> Tensor:
    """(M, D) of the set's own images, all of which must be readable."""
    parts = []
    with progress("read images", len(dataset.samples), "images") as advance:
        for start in range(0, len(dataset.samples), BATCH):
            shown: list[Sample] = dataset.samples[start : start + BATCH]
            parts.append(extractor([dataset.images.load(sample.image) for sample in shown]))
            advance(len(shown), "")
    return torch.cat(parts)
