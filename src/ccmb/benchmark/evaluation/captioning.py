"""Measuring captions: the first candidate of the decoder, and the candidate that R2D2 ranks first."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np

from ccmb.benchmark.evaluation.measurement import Measurement, Readable
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import Captioning, CaptionMetrics, Stage
from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.inference.models.base import Model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.tasks.captioning.evaluate import caption_dataset, metric_intervals, score_texts
from ccmb.tasks.captioning.metrics import characters
from ccmb.tasks.captioning.predict import Candidate, decoding_for
from ccmb.tasks.common.datasets import RetrievalSet

BEAMS = 5  # all of which are candidates


@dataclass(frozen=True, slots=True)
class SetOfTexts:
    """One split of images, each with texts of its own."""

    texts: RetrievalSet

    @property
    def name(self) -> str:
        return self.texts.name

    @property
    def split(self) -> str:
        return self.texts.split

    @property
    def samples(self) -> list[Sample]:
        return self.texts.samples

    @property
    def images(self) -> ImageSource:
        return self.texts.images

    @property
    def revision(self) -> str:
        return self.texts.revision


@dataclass(frozen=True, slots=True)
class CaptionSet(SetOfTexts):
    """One split of images to caption, with the captions that people wrote."""

    family: ClassVar[str] = "captioning"


def measure(model: Model, opened: CaptionSet, readable: Readable, settings: Settings) -> Measurement[Captioning]:
    """All metrics of a model on a set; see `BenchmarkFamily`."""
    samples, unreadable = readable.samples
    started = time.monotonic()
    section = captioning_of(model, opened, samples, settings)
    count, seconds = section.images, {"total": round(time.monotonic() - started, 2)}
    return Measurement(
        section=section,
        resampling_unit=list(range(count)),
        images=count,
        texts=section.references,
        unreadable=unreadable,
        seconds=seconds,
    )


def captioning_of(model: Model, opened: CaptionSet, samples: list[Sample], settings: Settings) -> Captioning:
    """The metrics of both stages.

    Raises:
        CcmbError: the model writes no captions, or there is one image alone.
        UsageError: the set's texts do not belong to single images.
    """
    if not isinstance(model, R2D2Stages) or not isinstance(model.network, R2D2Captioner):
        raise CcmbError("this model writes no captions; make one that does with `ccmb finetune captioning`")
    if len({sample.image for sample in samples}) < 2:
        raise CcmbError(f"{opened.name}, split {opened.split}: one readable image; CIDEr-D needs two or more")
    options = decoding_for(model.network, beams=BEAMS, candidates=BEAMS)
    written = caption_dataset(
        model.network, model.processor, replace(opened.texts, samples=samples), options, rerank=True
    )
    by_stage: dict[Stage, list[Candidate]] = {
        "pre_ranking": [image.decoded for image in written.captions if image.decoded is not None],
        "ranking": [image.candidates[0] for image in written.captions],
    }
    metrics, cider = dict[Stage, CaptionMetrics](), dict[Stage, list[float]]()
    for stage, captions in by_stage.items():
        scores = score_texts([candidate.text for candidate in captions], written.references, characters)
        values = scores.metrics()
        match_scores = [candidate.match_score for candidate in captions if candidate.match_score is not None]
        cider[stage] = [round(float(value), 6) for value in scores.cider]
        metrics[stage] = CaptionMetrics(
            cider_d=round(values["CIDEr-D"], 2),
            bleu_1=round(values["BLEU-1"], 2),
            bleu_4=round(values["BLEU-4"], 2),
            rouge_l=round(values["ROUGE-L"], 2),
            match_score=round(100 * float(np.mean(match_scores)), 2) if match_scores else None,
            interval=metric_intervals(scores, settings.draws, settings.seed)["CIDEr-D"],
        )
    return Captioning(
        images=len(written.captions),
        references=sum(map(len, written.references)),
        decoding=asdict(options),
        metrics=metrics,
        cider=cider,
        captions={stage: [candidate.text for candidate in captions] for stage, captions in by_stage.items()},
    )
