"""Captioning in the benchmark: the first candidate of the decoder, and the candidate that R2D2 ranks first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ccmb.benchmark.families.options import PairBenchOptions
from ccmb.benchmark.family import BilingualText, Interval, ResampledFamily, SetRequest, View
from ccmb.tasks.captioning.family import CaptionsFlag

if TYPE_CHECKING:
    from ccmb.benchmark.evaluation.captioning import CaptionSet
    from ccmb.benchmark.evaluation.measurement import Measurement, Readable
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.results.result import Captioning, Result, Stage
    from ccmb.inference.models.base import Model
    from ccmb.tasks.common.resampling import Metric


@dataclass(frozen=True, kw_only=True)
class CaptioningBenchOptions(PairBenchOptions):
    """See `BenchmarkFamily`."""

    captions: CaptionsFlag = False


class CaptioningBenchmark(ResampledFamily[CaptioningBenchOptions, "CaptionSet", "Captioning"]):
    """See `BenchmarkFamily`."""

    name = "captioning"
    options = CaptioningBenchOptions
    is_of_cards = False
    instead_of = "retrieval"
    view: ClassVar[View] = View(
        BilingualText("图像描述（按字）", "Captioning, on characters"),
        {
            "bleu_1": BilingualText("BLEU-1", "BLEU-1"),
            "bleu_4": BilingualText("BLEU-4", "BLEU-4"),
            "rouge_l": BilingualText("ROUGE-L", "ROUGE-L"),
            "match_score": BilingualText("匹配分", "match score"),
        },
        "cider_d",
        BilingualText("CIDEr-D", "CIDEr-D"),
    )

    def open_set(self, request: SetRequest) -> CaptionSet:
        from ccmb.benchmark.evaluation.captioning import CaptionSet
        from ccmb.tasks.common.datasets import open_set

        return CaptionSet(open_set(request.spec, request.split, request.fields, request.images))

    def depends_on(self, model: Model, opened: CaptionSet, settings: Settings) -> dict[str, Any]:
        from ccmb.benchmark.evaluation.captioning import BEAMS

        return {"family": self.name, "beams": BEAMS}

    def measure(
        self, model: Model, opened: CaptionSet, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[Captioning]:
        from ccmb.benchmark.evaluation.captioning import measure

        return measure(model, opened, readable, settings)

    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        values = self.section(result).metrics[stage]
        return self.view.of_fields(values), values.interval

    def main_metric(self, result: Result, stage: Stage) -> tuple[Metric, float]:
        import torch

        from ccmb.tasks.matching.metrics import weighted_mean

        return weighted_mean(torch.tensor(self.section(result).cider[stage], dtype=torch.double)), 100

    def variant(self, result: Result) -> str:
        return f"{result.data.split}, {result.data.images} images, {result.data.texts} references"

    def stage_words(self, result: Result, stage: Stage) -> str:
        return f"beam {self.section(result).decoding['beams']}" + (", re-ranked" if stage == "ranking" else "")
