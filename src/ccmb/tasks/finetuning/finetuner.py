"""The interface of a family of tasks that can be fine-tuned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.training.recipe import DataRecipe
from ccmb.training.trainer import Task

Batches = Callable[[int, int], Iterator[Any]]


class HeldOut(Protocol):
    """Held-out data that a family has opened."""

    @property
    def name(self) -> str:
        """The name that its metrics are filed under."""

    @property
    def split(self) -> str:
        """The name of the split."""

    @property
    def samples(self) -> list[Sample]:
        """Images with texts."""


@dataclass(frozen=True, slots=True)
class DrawnMetrics:
    """The metrics of one model on one set, and how they vary: what models are compared by.

    Attributes:
        values: the metrics, in percent, by name.
        draws: (draws,) of each metric, its drawn values; draws of one place are of the same items for all models.
        details: the whole report, for `finetune.json`.
        units: how many images, or texts, were drawn from.
        counted: the metrics are shares of right answers, see `bounded_interval`.
    """

    values: dict[str, float]
    draws: dict[str, np.ndarray]
    details: dict[str, Any]
    units: int = 1
    counted: bool = False


ModelT = TypeVar("ModelT", bound=R2D2Model)
HeldOutT = TypeVar("HeldOutT", bound=HeldOut)


class Finetuner(ABC, Generic[ModelT, HeldOutT]):
    """Fine-tuning of the models of a family, and their comparison before and after.

    Attributes:
        metrics: names of what `validate` gives; the first is what the best checkpoint is chosen by, higher being
            better, unless the recipe says otherwise.
        labels: what people read for the names of measured metrics, in Chinese and English.
        reads_fields: whether its data has text fields.
        in_model_card: whether the card of the finished model shows its report on the validation split.
    """

    metrics: ClassVar[tuple[str, ...]]
    labels: ClassVar[Mapping[str, tuple[str, str]]]
    reads_fields: ClassVar[bool] = True
    in_model_card: ClassVar[bool] = False

    @abstractmethod
    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        """Names of what training logs: losses, and what the task reports besides."""

    @abstractmethod
    def network(self, recipe: FinetuneRecipe) -> tuple[ModelT, R2D2Processor]:
        """The model and processor that a run begins with; equal recipes give equal weights."""

    @abstractmethod
    def load(self, out: Path) -> tuple[ModelT, R2D2Processor]:
        """The finished model of a run."""

    @abstractmethod
    def knows(self, start: str) -> bool:
        """Whether the model to start from has trained all that the family measures."""

    @abstractmethod
    def open_training(self, data: DataRecipe) -> tuple[list[Sample], ImageSource]:
        """The samples to train on, and their images."""

    @abstractmethod
    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> HeldOutT:
        """Another split of the same data."""

    @abstractmethod
    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> HeldOutT:
        """Further data, as `--also` names it."""

    @abstractmethod
    def task(self, model: ModelT, processor: R2D2Processor, recipe: FinetuneRecipe) -> Task:
        """The task that makes losses of batches."""

    @abstractmethod
    def batches(
        self,
        samples: list[Sample],
        images: ImageSource,
        processor: R2D2Processor,
        recipe: FinetuneRecipe,
        out: Path,
        task: Task,
    ) -> Batches:
        """This rank's batches of the steps from one number to before another, which the task makes losses of."""

    @abstractmethod
    def validate(
        self, model: ModelT, processor: R2D2Processor, held_out: HeldOutT, recipe: FinetuneRecipe
    ) -> dict[str, float]:
        """Metrics of a model that is in training."""

    @abstractmethod
    def measure(
        self, model: ModelT, processor: R2D2Processor, held_out: HeldOutT, recipe: FinetuneRecipe, heads: bool = True
    ) -> DrawnMetrics:
        """A model with its intervals; `heads` is False where its cross encoders and heads are new and know nothing."""
