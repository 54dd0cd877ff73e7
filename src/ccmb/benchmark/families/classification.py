"""Zero-shot classification in the benchmark: the accuracy on folders of one class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ccmb.benchmark.families.options import SplitOption
from ccmb.benchmark.families.retrieval import two_stages
from ccmb.benchmark.family import BilingualText, Interval, ResampledFamily, SetRequest, View, rounded
from ccmb.core.errors import UsageError
from ccmb.core.options import Flag, Options
from ccmb.tasks.classification.family import CLASSES_HELP, TemplatesOption

if TYPE_CHECKING:
    from ccmb.benchmark.evaluation.classification_sets import ClassSet
    from ccmb.benchmark.evaluation.measurement import Measurement, Readable
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.results.result import Classification, Result, Stage
    from ccmb.inference.models.base import Model
    from ccmb.tasks.common.resampling import Metric


@dataclass(frozen=True, kw_only=True)
class ClassificationBenchOptions(Options):
    """See `BenchmarkFamily`."""

    split: SplitOption = "test"
    classes: Annotated[
        str | None,
        Flag(f"{CLASSES_HELP} By default classes.json of the folder, or ImageNet's.", forms=("--classes", "-c")),
    ] = None
    templates: TemplatesOption = "all"
    class_depth: Annotated[
        int | None, Flag("Classes that the second stage ranks; by default it is left out.", min=1)
    ] = None


class ClassificationBenchmark(ResampledFamily[ClassificationBenchOptions, "ClassSet", "Classification"]):
    """See `BenchmarkFamily`."""

    name = "classification"
    options = ClassificationBenchOptions
    second_stage = ("class_depth",)
    view: ClassVar[View] = View(
        BilingualText("零样本分类", "Zero-shot classification"),
        {"top5": BilingualText("top-5", "top-5"), "mean_per_class": BilingualText("各类平均", "mean per class")},
        "top1",
        BilingualText("top-1", "top-1"),
    )

    def settle(self, settings: Settings, options: ClassificationBenchOptions) -> Settings:
        return replace(settings, class_depth=options.class_depth)

    def open_set(self, request: SetRequest) -> ClassSet:
        from ccmb.benchmark.evaluation.classification_sets import open_class_set

        return open_class_set(request.name, request.path, request.split, request.classes, request.templates)

    def check(self, options: ClassificationBenchOptions, sets: Mapping[str, ClassSet], models: Sequence[str]) -> None:
        if options.is_given("split"):
            for spec, opened in sets.items():
                if opened.split == "all":
                    flag = options.flags_given["split"]
                    raise UsageError(f"{flag} {options.split}: {spec} has no such folder; leave it out")
        if all(opened.class_list == "its own" for opened in sets.values()):
            options.refuse("of folders without a list of their own", "templates")
        super().check(options, sets, models)

    def depends_on(self, model: Model, opened: ClassSet, settings: Settings) -> dict[str, Any]:
        depth = settings.class_depth if model.can_rank else None
        return {"family": self.name, "prompts": opened.prompt_set, "depth": depth}

    def measure(
        self, model: Model, opened: ClassSet, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[Classification]:
        from ccmb.benchmark.evaluation.classification import measure

        return measure(model, opened, settings)

    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        values = self.section(result).at_stage(stage)
        return rounded(self.view.of_fields(values), values.interval[self.view.main], 1)

    def main_metric(self, result: Result, stage: Stage) -> tuple[Metric, float]:
        import torch

        from ccmb.tasks.matching.metrics import weighted_mean

        return weighted_mean(torch.tensor(self.section(result).ranks[stage]) == 1), 100

    def variant(self, result: Result) -> str:
        data, section = result.data, self.section(result)
        return (
            f"{data.split}, {data.images} images, {section.classes} classes ({section.class_list}), "
            f"prompts: {result.prompt_set}"
        )

    def stage_words(self, result: Result, stage: Stage) -> str:
        return two_stages(result, stage)
