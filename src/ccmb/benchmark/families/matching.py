"""Matching in the benchmark: labelled pairs, classified by the cosine or by the match score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ccmb.benchmark.families.options import ImageBenchOptions
from ccmb.benchmark.family import BilingualText, Interval, ResampledFamily, SetRequest, View, rounded

if TYPE_CHECKING:
    from ccmb.benchmark.evaluation.matching import MatchingSet
    from ccmb.benchmark.evaluation.measurement import Measurement, Readable
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.results.result import Matching, Result, Stage
    from ccmb.inference.models.base import Model
    from ccmb.tasks.common.resampling import Metric


class MatchingBenchmark(ResampledFamily[ImageBenchOptions, "MatchingSet", "Matching"]):
    """See `BenchmarkFamily`."""

    name = "matching"
    options = ImageBenchOptions
    view: ClassVar[View] = View(
        BilingualText("图文匹配", "Image-text matching"),
        {
            "accuracy": BilingualText("准确率", "accuracy"),
            "accuracy_fitted": BilingualText("准确率（拟合阈值）", "accuracy, fitted"),
            "calibration_error": BilingualText("校准误差", "ECE"),
            "calibration_error_fitted": BilingualText("校准误差（拟合温度）", "ECE, fitted"),
        },
        "auc",
        BilingualText("AUC", "AUC"),
    )

    def open_set(self, request: SetRequest) -> MatchingSet:
        from ccmb.benchmark.evaluation.matching import open_matching_set

        return open_matching_set(request.name, request.path, request.split, request.images)

    def depends_on(self, model: Model, opened: MatchingSet, settings: Settings) -> dict[str, Any]:
        return {"family": self.name, "match_temperature": model.match_temperature}

    def measure(
        self, model: Model, opened: MatchingSet, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[Matching]:
        from ccmb.benchmark.evaluation.matching import measure

        return measure(model, opened, readable, settings)

    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        values = self.section(result).at_stage(stage)
        return rounded(self.view.of_fields(values), values.interval[self.view.main], 100)

    def main_metric(self, result: Result, stage: Stage) -> tuple[Metric, float]:
        import torch

        from ccmb.tasks.matching.metrics import weighted_auc

        section = self.section(result)
        return weighted_auc(torch.tensor(section.scores[stage]), torch.tensor(section.labels)), 100

    def variant(self, result: Result) -> str:
        return f"{result.data.split}, {self.section(result).pairs} pairs of {result.data.images} images"

    def stage_words(self, result: Result, stage: Stage) -> str:
        return "cosine" if result.model.stages == 1 or stage == "pre_ranking" else "match score"
