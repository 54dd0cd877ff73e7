"""Generation in the benchmark: the first image of each text, and the image that a judge ranks first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ccmb.benchmark.families.options import PairBenchOptions
from ccmb.benchmark.family import BilingualText, Interval, ResampledFamily, SetRequest, View
from ccmb.core.options import Flag
from ccmb.tasks.generation.family import GenerateFlag, MeasuredPaintingOptions

if TYPE_CHECKING:
    from ccmb.benchmark.evaluation.generation import GenerationSet
    from ccmb.benchmark.evaluation.measurement import Measurement, Readable
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.results.result import Generation, Result, Stage
    from ccmb.inference.models.base import Model
    from ccmb.tasks.common.resampling import Metric


@dataclass(frozen=True, kw_only=True)
class GenerationBenchOptions(MeasuredPaintingOptions, PairBenchOptions):
    """See `BenchmarkFamily`."""

    generate: GenerateFlag = False
    limit: Annotated[int | None, Flag("Of --generate: paint the texts of the first N images alone.", min=2)] = None


class GenerationBenchmark(ResampledFamily[GenerationBenchOptions, "GenerationSet", "Generation"]):
    """See `BenchmarkFamily`."""

    name = "generation"
    options = GenerationBenchOptions
    instead_of = "retrieval"
    view: ClassVar[View] = View(
        BilingualText("文生图", "Text-to-image"),
        {
            "FID": BilingualText("FID", "FID"),
            "KID": BilingualText("KID", "KID"),
            "kind_and_colour": BilingualText("种类与颜色", "kind and colour"),
            "amount": BilingualText("数量", "amount"),
            "place": BilingualText("位置", "place"),
        },
        "match_score",
        BilingualText("匹配分", "match score"),
    )

    def settle(self, settings: Settings, options: GenerationBenchOptions) -> Settings:
        painting = options.sampling(settings.seed)
        return replace(
            settings, painting=painting, judge=options.judge, features=options.features, images=options.limit
        )

    def open_set(self, request: SetRequest) -> GenerationSet:
        from ccmb.benchmark.evaluation.generation import GenerationSet
        from ccmb.tasks.common.datasets import open_set

        return GenerationSet(open_set(request.spec, request.split, request.fields, request.images, family=self.name))

    def depends_on(self, model: Model, opened: GenerationSet, settings: Settings) -> dict[str, Any]:
        return {
            "family": self.name,
            "painting": asdict(settings.painting),
            "pictures": settings.images,
            "judge": settings.judge,
            "features": settings.features,
        }

    def measure(
        self, model: Model, opened: GenerationSet, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[Generation]:
        from ccmb.benchmark.evaluation.generation import measure

        return measure(model, opened, readable, settings)

    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        values = self.section(result).metrics[stage]
        known = {"match_score": values.match_score, "FID": values.fid, "KID": values.kid, **(values.things or {})}
        return {key: known[key] for key in self.view.keys if key in known}, values.interval

    def main_metric(self, result: Result, stage: Stage) -> tuple[Metric, float]:
        import torch

        from ccmb.tasks.matching.metrics import weighted_mean

        return weighted_mean(torch.tensor(self.section(result).scores[stage], dtype=torch.double)), 1

    def variant(self, result: Result) -> str:
        data, section = result.data, self.section(result)
        return f"{data.split}, {data.texts} texts; judge: {section.judge}; features: {section.features}"

    def stage_words(self, result: Result, stage: Stage) -> str:
        return "one picture" if stage == "pre_ranking" else f"best of {self.section(result).painting['best_of']}"

    def comparable_by(self, result: Result) -> object:
        return self.section(result).judge_fingerprint, self.section(result).features
