"""What a family of tasks brings to the benchmark: its sets, how a model is measured on one, and what a leaderboard
shows of the result.

Like `ccmb.tasks.family.TaskFamily` these are light, for the command line; the work is in `ccmb.benchmark.evaluation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from ccmb.core.options import Options

if TYPE_CHECKING:
    import numpy as np

    from ccmb.benchmark.evaluation.measurement import MeasuredSet, Measurement, Readable
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.models.base import BenchmarkModel
    from ccmb.benchmark.results.result import Result, Section, Stage
    from ccmb.tasks.common.resampling import Metric

OptionsT = TypeVar("OptionsT", bound=Options)
SetT = TypeVar("SetT", bound="MeasuredSet")
SectionT = TypeVar("SectionT", bound="Section")
Interval = tuple[float, float]


class BilingualText(NamedTuple):
    """The same in both languages."""

    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class View:
    """How a leaderboard shows a family: its metrics, in percent but for distances, and the one that orders.

    Attributes:
        title: of its part of the page.
        columns: headings of its metrics by their key, without the main one.
        main: key of the metric that orders and is compared, and its heading.
    """

    title: BilingualText
    columns: dict[str, BilingualText]
    main: str
    main_words: BilingualText

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all metrics, the main one last."""
        return *self.columns, self.main

    def of_fields(self, fields: object) -> dict[str, float]:
        """The metrics that some object has, by their keys."""
        values = {key: getattr(fields, key) for key in self.keys}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SetRequest:
    """A set as the user asks for it.

    Attributes:
        spec: `NAME=PATH`, or the path alone.
        name, path: both apart.
        fields: text fields of own pairs.
        images: folder or tar of the images of own pairs.
        classes, templates: what folders show, and the prompts that ask for it.
    """

    spec: str
    name: str
    path: Path
    split: str
    fields: Sequence[str]
    images: Path | None
    classes: str | None
    templates: str


class BenchmarkFamily(ABC, Generic[OptionsT, SetT, SectionT]):
    """One family of tasks in the benchmark.

    Attributes:
        name: that of its `TaskFamily`, and of its section of a result.
        options: what its sets read of the options of `ccmb benchmark`.
        second_stage: those of the options that are of models that rank.
        is_of_cards: whether the card of a published set may say that it is of this family.
        instead_of: the family whose sets it is measured on, where it is asked for.
    """

    name: ClassVar[str]
    options: type[OptionsT]
    second_stage: ClassVar[tuple[str, ...]] = ()
    is_of_cards: ClassVar[bool] = True
    instead_of: ClassVar[str | None] = None

    # --- measuring

    def settle(self, settings: Settings, options: OptionsT) -> Settings:
        """The settings with what the family's options say."""
        return settings

    @abstractmethod
    def open_set(self, request: SetRequest) -> SetT:
        """Open a set.

        Raises:
            UsageError, CcmbError: missing or faulty data; the message names it.
        """

    def check(self, options: OptionsT, sets: Mapping[str, SetT], models: Sequence[str]) -> None:
        """Refuse options that do nothing with any of these sets, by their specifications, or models.

        Raises:
            UsageError: one was given; the message names it.
        """
        from ccmb.benchmark.models.open_model import may_rank

        options.need_second_stage(any(map(may_rank, models)), ", ".join(models), *self.second_stage)

    @abstractmethod
    def depends_on(self, model: BenchmarkModel, opened: SetT, settings: Settings) -> dict[str, Any]:
        """All that results depend on beyond model, data and what the settings of all families are."""

    @abstractmethod
    def measure(
        self, model: BenchmarkModel, opened: SetT, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[SectionT]:
        """All metrics of a model on a set.

        Raises:
            CcmbError: the model cannot do what the set asks, or none of the images can be read.
        """

    # --- what a leaderboard shows

    @property
    @abstractmethod
    def view(self) -> View:
        """The columns."""

    def section(self, result: Result) -> SectionT:
        """The family's part of one of its results."""
        section: SectionT = getattr(result, self.name)
        return section

    @abstractmethod
    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        """The metrics of a stage by the keys of the view, in percent, and the interval of the main one."""

    def main_metric(self, result: Result, stage: Stage) -> tuple[Metric, float]:
        """The main metric of drawn items, and what makes it percent."""
        raise NotImplementedError(f"{self.name} draws its main metric by itself")

    def drawn_main(self, result: Result, stage: Stage) -> np.ndarray:
        """The main metric of each draw, in percent; all results of one size draw the same images."""
        import numpy as np

        from ccmb.tasks.common.resampling import draw_metrics

        metric, factor = self.main_metric(result, stage)
        return factor * draw_metrics([metric], np.array(result.resampling_unit))[:, 0]

    def raw_main(self, result: Result, stage: Stage) -> float:
        """The main metric in percent, not rounded."""
        from ccmb.tasks.common.resampling import on_all

        metric, factor = self.main_metric(result, stage)
        return factor * on_all(metric, len(result.resampling_unit))

    @abstractmethod
    def variant(self, result: Result) -> str:
        """Which part of the set it is, and how much there is of it."""

    @abstractmethod
    def stage_words(self, result: Result, stage: Stage) -> str:
        """By what the model orders or judges; see `ccmb.benchmark.leaderboard.rows.Row`."""

    def comparable_by(self, result: Result) -> object:
        """What is to be equal of results that are compared, besides data, prompts and setting."""
        return None

    def measured_how(self, result: Result) -> str:
        """What the source of a row says besides; begins with a comma, or is empty."""
        return ""


def rounded(metrics: Mapping[str, float], interval: Interval, factor: float) -> tuple[dict[str, float], Interval]:
    """Metrics and an interval, made percent."""
    low, high = (round(factor * end, 2) for end in interval)
    return {key: round(factor * value, 2) for key, value in metrics.items()}, (low, high)
