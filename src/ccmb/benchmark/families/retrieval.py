"""Retrieval in the benchmark: recalls of both directions and stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ccmb.benchmark.families.options import PairBenchOptions
from ccmb.benchmark.family import BenchmarkFamily, BilingualText, Interval, SetRequest, View
from ccmb.core.options import Flag
from ccmb.tasks.options import RankOptionsGiven

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ccmb.benchmark.evaluation.measurement import Measurement, Readable
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.results.result import Result, Retrieval, Stage
    from ccmb.inference.models.base import Model
    from ccmb.inference.two_stage import Direction
    from ccmb.tasks.common.datasets import RetrievalSet

WAYS = {"image_to_text": BilingualText("图搜文", "i→t"), "text_to_image": BilingualText("文搜图", "t→i")}


@dataclass(frozen=True, kw_only=True)
class RetrievalBenchOptions(RankOptionsGiven, PairBenchOptions):
    """See `BenchmarkFamily`."""

    depth: Annotated[
        int, Flag("Candidates of the first stage that the second one ranks.", min=1, forms=("--rerank-k", "--depth"))
    ] = 128
    languages: Annotated[
        str | None,
        Flag("Measure each language as a set of its own: tags and fields, such as zh=captions,en. See evaluate."),
    ] = None


class RetrievalBenchmark(BenchmarkFamily[RetrievalBenchOptions, "RetrievalSet", "Retrieval"]):
    """See `BenchmarkFamily`."""

    name = "retrieval"
    options = RetrievalBenchOptions
    second_stage = ("depth", "precision", "cascade")

    def settle(self, settings: Settings, options: RetrievalBenchOptions) -> Settings:
        from ccmb.inference.stages import RankOptions

        ranking = RankOptions(options.precision, options.cascade)
        return replace(settings, depth=options.depth, ranking=ranking, convention=options.convention)

    def open_set(self, request: SetRequest) -> RetrievalSet:
        from ccmb.tasks.common.datasets import open_set

        if request.language is not None:
            return _of_language(request, *request.language)
        return open_set(request.spec, request.split, request.fields, request.images)

    def check(self, options: RetrievalBenchOptions, sets: Mapping[str, RetrievalSet], models: Sequence[str]) -> None:
        from ccmb.inference.models.open_model import is_exported

        super().check(options, sets, models)
        if options.precision == "fp32" and any(map(is_exported, models)):
            options.refuse("of networks in torch; an export keeps the one that it was made with", "precision")

    def depends_on(self, model: Model, opened: RetrievalSet, settings: Settings) -> dict[str, Any]:
        from ccmb.inference.stages import EXACT_OPTIONS

        depth = settings.depth if model.can_rank else None
        values: dict[str, Any] = {"depth": depth, "convention": settings.convention}
        if model.options is not None and model.options != EXACT_OPTIONS:
            return values | {"ranking": model.options.to_dict()}
        return values

    def measure(
        self, model: Model, opened: RetrievalSet, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[Retrieval]:
        from ccmb.benchmark.evaluation.retrieval import measure

        return measure(model, opened, readable, cache, settings)

    @cached_property
    def view(self) -> View:
        from ccmb.benchmark.results.result import DIRECTIONS
        from ccmb.tasks.retrieval.metrics import RECALLS

        columns = {
            f"{way}_R@{k}": BilingualText(f"{WAYS[way].zh} R@{k}", f"{WAYS[way].en} R@{k}")
            for way in reversed(DIRECTIONS)
            for k in RECALLS
        }
        return View(
            BilingualText("图文检索", "Image-text retrieval"), columns, "mean_recall", BilingualText("平均召回", "MR")
        )

    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        from ccmb.benchmark.results.result import DIRECTIONS

        section = self.section(result)
        recalls = {way: section.recalls(way, stage) or {} for way in DIRECTIONS}
        metrics = {f"{way}_{key}": value for way, values in recalls.items() for key, value in values.items()}
        mean = section.mean_recall.get(stage)
        return metrics | ({} if mean is None else {self.view.main: mean}), section.mean_recall_interval.get(stage)

    def drawn_main(self, result: Result, stage: Stage) -> np.ndarray:
        import torch

        from ccmb.tasks.retrieval.metrics import bootstrap_recalls, hits_by_image

        unit_N = torch.tensor(result.resampling_unit)
        return bootstrap_recalls(*hits_by_image(self._ranks(result, stage), unit_N)).mean((1, 2))

    def raw_main(self, result: Result, stage: Stage) -> float:
        from ccmb.tasks.retrieval.metrics import mean_recall

        return mean_recall(self._ranks(result, stage).values()) or 0.0

    def _ranks(self, result: Result, stage: Stage) -> dict[Direction, Tensor]:
        import torch

        return {direction: torch.tensor(ranks[stage]) for direction, ranks in self.section(result).ranks.items()}

    def variant(self, result: Result) -> str:
        data, section = result.data, self.section(result)
        words = f"{data.split}, {data.images} images, {data.texts} texts"
        if section.convention == "official":  # where ties count as elsewhere
            return f"{words}, official convention"
        return f"{words}, {section.equal_texts} equal ones right" if section.equal_texts else words

    def stage_words(self, result: Result, stage: Stage) -> str:
        return two_stages(result, stage)

    def comparable_by(self, result: Result) -> object:
        return self.section(result).convention

    def measured_how(self, result: Result) -> str:
        convention = self.section(result).convention
        return "" if convention is None else f", convention {convention}"


def _of_language(request: SetRequest, tag: str, fields: tuple[str, ...]) -> RetrievalSet:
    """The images that have texts of a language, as a set NAME.TAG."""
    from ccmb.tasks.common.datasets import RetrievalSet
    from ccmb.tasks.retrieval.columns import Column
    from ccmb.tasks.retrieval.languages import open_languages

    opened = open_languages(request.spec, request.split, [Column(tag, fields)], request.images)
    return RetrievalSet(f"{request.name}.{tag}", request.split, opened.samples, None, opened.images, language=tag)


def two_stages(result: Result, stage: Stage) -> str:
    """The stage that orders, as text; for the second stage also how it is approximated."""
    if result.model.stages == 1:
        return "cosine"
    if stage == "pre_ranking":
        return "pre-ranking"
    precision = f", {result.precision}" if result.precision not in (None, "fp32") else ""
    cascade = f", cascade {result.cascade}" if result.cascade is not None else ""
    return f"ranking, top {result.depth}{precision}{cascade}"
