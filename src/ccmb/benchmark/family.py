"""Families of tasks in the benchmark: how each opens sets, measures a model, and shows its results in a leaderboard.

Like `ccmb.tasks.family.TaskFamily` these classes import little, for the command line; `ccmb.benchmark.evaluation` does
the work.
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
    from ccmb.benchmark.results.result import Result, Section, Stage
    from ccmb.inference.models.base import Model
    from ccmb.tasks.common.resampling import Metric

OptionsT = TypeVar("OptionsT", bound=Options)
SetT = TypeVar("SetT", bound="MeasuredSet")
SectionT = TypeVar("SectionT", bound="Section")
Interval = tuple[float, float]


class BilingualText(NamedTuple):
    """A text in Chinese and in English."""

    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class View:
    """The columns of a family in a leaderboard. Metrics are in percent, except distances.

    Attributes:
        title: heading of the family's table.
        columns: headings of the metrics by their keys, without the main metric.
        main: key of the main metric, by which rows are ordered and compared.
        main_words: heading of the main metric.
    """

    title: BilingualText
    columns: dict[str, BilingualText]
    main: str
    main_words: BilingualText

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all metrics, the main metric last."""
        return *self.columns, self.main

    def of_fields(self, fields: object) -> dict[str, float]:
        """The metrics of an object that are not None, by their keys."""
        values = {key: getattr(fields, key) for key in self.keys}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SetRequest:
    """The specification of a set by the user.

    Attributes:
        spec: `NAME=PATH`, or the path alone.
        name, path: the two parts of `spec`.
        fields: text fields of custom pairs.
        images: folder or tar of the images of custom pairs.
        classes, templates: class names of the folders, and prompts.
        language: tag and fields of the texts, of a set with several languages; None: the set's own queries.
    """

    spec: str
    name: str
    path: Path
    split: str
    fields: Sequence[str]
    images: Path | None
    classes: str | None
    templates: str
    language: tuple[str, tuple[str, ...]] | None = None


class BenchmarkFamily(ABC, Generic[OptionsT, SetT, SectionT]):
    """One family of tasks in the benchmark.

    Attributes:
        name: the name of its `TaskFamily`, and of its section in a result.
        options: the options of `ccmb benchmark` that its sets use.
        second_stage: names of the options that need a model with a second stage.
        is_of_cards: whether the card of a published set may name this family.
        instead_of: the family whose sets it uses, if an option asks for this family.
    """

    name: ClassVar[str]
    options: type[OptionsT]
    second_stage: ClassVar[tuple[str, ...]] = ()
    is_of_cards: ClassVar[bool] = True
    instead_of: ClassVar[str | None] = None

    # --- measuring

    def settle(self, settings: Settings, options: OptionsT) -> Settings:
        """The settings, completed by the options of the family."""
        return settings

    @abstractmethod
    def open_set(self, request: SetRequest) -> SetT:
        """Open a set.

        Raises:
            UsageError, CcmbError: missing or faulty data; the message names it.
        """

    def check(self, options: OptionsT, sets: Mapping[str, SetT], models: Sequence[str]) -> None:
        """Refuse options that have no effect on any of these models and sets.

        Args:
            sets: by their specifications.

        Raises:
            UsageError: such an option was given; the message names it.
        """
        from ccmb.inference.models.open_model import may_rank

        options.need_second_stage(any(map(may_rank, models)), ", ".join(models), *self.second_stage)

    @abstractmethod
    def depends_on(self, model: Model, opened: SetT, settings: Settings) -> dict[str, Any]:
        """Everything that results depend on, beyond model, data and the settings that all families share."""

    @abstractmethod
    def measure(
        self, model: Model, opened: SetT, readable: Readable, cache: Path, settings: Settings
    ) -> Measurement[SectionT]:
        """All metrics of a model on a set.

        Raises:
            CcmbError: the model cannot do the task of the set, or none of the images can be read.
        """

    # --- what a leaderboard shows

    @property
    @abstractmethod
    def view(self) -> View:
        """The columns of the family in a leaderboard."""

    def section(self, result: Result) -> SectionT:
        """The section of the family in a result."""
        section: SectionT = getattr(result, self.name)
        return section

    @abstractmethod
    def metrics(self, result: Result, stage: Stage) -> tuple[dict[str, float], Interval | None]:
        """The metrics of a stage by the keys of the view, in percent, and the interval of the main one."""

    @abstractmethod
    def drawn_main(self, result: Result, stage: Stage) -> np.ndarray:
        """The main metric of each draw, in percent. All results of one size draw the same images."""

    @abstractmethod
    def raw_main(self, result: Result, stage: Stage) -> float:
        """The main metric in percent, not rounded."""

    @abstractmethod
    def variant(self, result: Result) -> str:
        """The part of the set, and its size, as text."""

    @abstractmethod
    def stage_words(self, result: Result, stage: Stage) -> str:
        """The scores that order or classify, as text; see `ccmb.benchmark.leaderboard.rows.Row`."""

    def comparable_by(self, result: Result) -> object:
        """A value that must be equal for two results to be compared, as data, prompts and setting must."""
        return None

    def measured_how(self, result: Result) -> str:
        """Further text about how a row was measured; it begins with a comma, or is empty."""
        return ""


class ResampledFamily(BenchmarkFamily[OptionsT, SetT, SectionT]):
    """A family whose main metric is a function of resampled items."""

    @abstractmethod
    def main_metric(self, result: Result, stage: Stage) -> tuple[Metric, float]:
        """The main metric as a function of resampled items, and the factor that makes it percent."""

    def drawn_main(self, result: Result, stage: Stage) -> np.ndarray:
        import numpy as np

        from ccmb.tasks.common.resampling import draw_metrics

        metric, factor = self.main_metric(result, stage)
        return factor * draw_metrics([metric], np.array(result.resampling_unit))[:, 0]

    def raw_main(self, result: Result, stage: Stage) -> float:
        from ccmb.tasks.common.resampling import on_all

        metric, factor = self.main_metric(result, stage)
        return factor * on_all(metric, len(result.resampling_unit))


def rounded(metrics: Mapping[str, float], interval: Interval, factor: float) -> tuple[dict[str, float], Interval]:
    """Metrics and an interval, multiplied by `factor` and rounded to two digits."""
    low, high = (round(factor * end, 2) for end in interval)
    return {key: round(factor * value, 2) for key, value in metrics.items()}, (low, high)
