"""Measuring generated images: the first image of each text, and the image that the judge ranks first."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from ccmb.benchmark.evaluation.captioning import SetOfTexts
from ccmb.benchmark.evaluation.measurement import Measurement, Readable
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import Generation, GenerationMetrics, Stage
from ccmb.core.errors import CcmbError
from ccmb.data.sample import Sample
from ccmb.inference.models.base import Model, network_fingerprint
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.generative.generator import R2D2Generator
from ccmb.tasks.generation.evaluate import Metrics, metrics_of, prompts_of, real_features
from ccmb.tasks.generation.features import open_extractor, r2d2_extractor
from ccmb.tasks.generation.predict import Candidate, open_judge, paint_texts


@dataclass(frozen=True, slots=True)
class GenerationSet(SetOfTexts):
    """One split of texts to generate images of, with the images that they belong to."""

    family: ClassVar[str] = "generation"


def measure(model: Model, opened: GenerationSet, readable: Readable, settings: Settings) -> Measurement[Generation]:
    """All metrics of a model on a set; see `BenchmarkFamily`."""
    samples, unreadable = readable.samples
    started = time.monotonic()
    section = generation_of(model, opened, samples, settings)
    count, seconds = section.images, {"total": round(time.monotonic() - started, 2)}
    return Measurement(
        section=section,
        resampling_unit=list(range(count)),
        images=count,
        texts=count,
        unreadable=unreadable,
        seconds=seconds,
    )


def generation_of(model: Model, opened: GenerationSet, samples: list[Sample], settings: Settings) -> Generation:
    """The metrics of both stages.

    Raises:
        CcmbError: the model paints no images, or judge or extractor are not there.
        UsageError: the set's texts do not belong to single images, or cannot be painted.
    """
    if not isinstance(model, R2D2Stages) or not isinstance(model.network, R2D2Generator):
        raise CcmbError("this model paints no images; make one that does with `ccmb finetune generation`")
    network, processor = model.network, model.processor
    texts = replace(opened.texts, samples=samples[: settings.images])
    judge = open_judge(settings.judge, model.name, network, processor)
    extractor = (
        open_extractor(settings.features) if settings.features else r2d2_extractor(model.name, network, processor)
    )
    painted = paint_texts(network, processor, prompts_of(texts), settings.painting, judge)
    by_stage: dict[Stage, list[Candidate]] = {"pre_ranking": [of_text.first for of_text in painted]}
    if settings.painting.best_of > 1:
        by_stage["ranking"] = [of_text.candidates[0] for of_text in painted]
    real = real_features(texts, extractor)
    metrics = {stage: metrics_of(of_stage, painted, real, extractor) for stage, of_stage in by_stage.items()}
    return Generation(
        images=len(painted),
        painting=asdict(settings.painting),
        judge=judge.name,
        judge_fingerprint=network_fingerprint(judge.model),
        features=extractor.name,
        metrics={stage: _metrics(of_stage, settings) for stage, of_stage in metrics.items()},
        scores={
            stage: [round(float(score), 5) for score in next(iter(of_stage.scores.values()))]
            for stage, of_stage in metrics.items()
        },
    )


def _metrics(stage_metrics: Metrics, settings: Settings) -> GenerationMetrics:
    values, main = stage_metrics.values(), next(iter(stage_metrics.scores))
    return GenerationMetrics(
        match_score=values.pop(main),
        fid=values.pop("FID"),
        kid=values.pop("KID"),
        interval=stage_metrics.intervals(settings.draws, settings.seed)[main],
        things=values or None,
    )
