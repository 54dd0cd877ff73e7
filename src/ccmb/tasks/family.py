"""The interface of a family of tasks: its data, its kind of model, its predictions and its metrics.

A family is a light table of contents: the folder beside it holds the work, and is imported when it is asked for, so
that the command line can ask all families for their options at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ccmb.core.options import Options

if TYPE_CHECKING:
    from ccmb.data.sample import Sample
    from ccmb.tasks.finetuning.finetuner import Finetuner

OptionsT = TypeVar("OptionsT", bound=Options)
DataT = TypeVar("DataT")
ModelT = TypeVar("ModelT")
PredictionsT = TypeVar("PredictionsT")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[ModelT]):
    """A model, with a processor where it does not hold its own, and what they were loaded from."""

    source: str
    model: ModelT


@dataclass(frozen=True, slots=True)
class Report:
    """One model on one set, as `ccmb evaluate` reports it.

    Attributes:
        family: whose metrics they are.
        values: the whole report; those of the family are under its name.
    """

    family: str
    values: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the family alone."""
        section: dict[str, Any] = self.values[self.family]
        return section

    @property
    def unreadable(self) -> list[str]:
        """A line for each image that was left out."""
        lines: list[str] = self.values["unreadable"]
        return lines


class TaskFamily(ABC, Generic[OptionsT, DataT, ModelT, PredictionsT]):
    """One family of tasks, from its options to its report.

    Attributes:
        name: how reports, results and recipes call it.
        mode: how messages call what is measured, in words that follow "of"; the flag that asks for it, if there is one.
        asked_by: the option that asks for the family; None where the data alone does.
        options: what it reads of what the user gives, with the defaults.
    """

    name: ClassVar[str]
    mode: ClassVar[str]
    asked_by: ClassVar[str | None] = None
    options: type[OptionsT]

    def is_of(self, spec: str) -> bool:
        """Whether the data itself belongs to this family, whatever the user asks for."""
        return False

    def check(self, spec: str, options: OptionsT) -> None:
        """Refuse options of no use beside the others or for this data: raise a UsageError that names one."""

    @abstractmethod
    def open_dataset(self, spec: str, options: OptionsT) -> DataT:
        """Open `PATH` or `NAME=PATH`.

        Raises:
            UsageError: options that do nothing with this data.
            CcmbError: missing or faulty data.
        """

    @abstractmethod
    def load(self, source: str, options: OptionsT) -> Loaded[ModelT]:
        """Load a run, a model folder or a hub id.

        Raises:
            UsageError: options that do nothing with this model.
            CcmbError: there is no such model, or it is of another kind.
        """

    @abstractmethod
    def predict(self, loaded: Loaded[ModelT], data: DataT, options: OptionsT) -> PredictionsT:
        """The predictions of the model on the data, before anything is measured."""

    @abstractmethod
    def evaluate(self, loaded: Loaded[ModelT], data: DataT, options: OptionsT) -> Report:
        """Predict, and measure the predictions."""

    @abstractmethod
    def table(self, metrics: dict[str, Any]) -> str:
        """The metrics of a report as lines of text, for the terminal."""

    def finetuner(self) -> Finetuner[Any, Any] | None:
        """The finetuner of its models; None if they cannot be fine-tuned."""
        return None

    def run(self, source: str, spec: str, options: OptionsT) -> Report:
        """Load a model by its name, open data by its path, and evaluate."""
        self.check(spec, options)
        data = self.open_dataset(spec, options)
        return self.evaluate(self.load(source, options), data, options)

    def report(self, values: dict[str, Any], source: str, samples: Sequence[Sample]) -> Report:
        """A report, with how many of the images the model was trained on."""
        from ccmb.data.seen_images import seen_mark
        from ccmb.tasks.common.seen import seen_by

        seen = seen_mark(seen_by(source), [sample.image for sample in samples])
        return Report(self.name, {**values, "seen": seen})


def name_and_place(spec: str) -> tuple[str, Path]:
    """`NAME=PATH` in two; the name is empty where there is none."""
    name, _, path = ("", "", spec) if Path(spec).exists() else spec.rpartition("=")
    return name, Path(path)
