"""What a family of tasks brings to fine-tuning, and what a measurement is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ccmb.data.images.source import Pictures
from ccmb.data.sample import Sample
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.towers import is_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.run import build_network
from ccmb.training.recipe import DataRecipe
from ccmb.training.trainer import Task

Batches = Callable[[int, int], Iterator[Any]]


class MeasuredOn(Protocol):
    """Held-out data that a family has opened."""

    @property
    def name(self) -> str:
        """How its figures are filed."""

    @property
    def split(self) -> str:
        """Which split it is."""

    @property
    def samples(self) -> list[Sample]:
        """Images with texts."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model on one set.

    Attributes:
        values: the figures that models are compared by, in percent, by name.
        draws: (draws,) of each figure, its drawn values; draws of one place are of the same items for all models.
        details: the whole report, for `finetune.json`.
        units: how many images, or texts, were drawn from.
        counted: the figures are shares of right answers, see `bounded_interval`.
    """

    values: dict[str, float]
    draws: dict[str, np.ndarray]
    details: dict[str, Any]
    units: int = 1
    counted: bool = False


class OfR2D2:
    """Of a family whose networks are R2D2s alone."""

    def network(self, recipe: FinetuneRecipe) -> tuple[R2D2Model, R2D2Processor]:
        return build_network(recipe, ())

    def load(self, out: Path) -> tuple[R2D2Model, R2D2Processor]:
        return load_model(out)

    def knows(self, start: str) -> bool:
        return not is_chinese_clip(start)  # which has no cross encoders of its own


class Family(Protocol):
    """What a family of tasks brings to fine-tuning.

    Attributes:
        figures: names of what `validate` gives; the first is what the best checkpoint is chosen by, higher being
            better, unless the recipe says otherwise.
    """

    figures: tuple[str, ...]

    def logged(self, recipe: FinetuneRecipe) -> list[str]:
        """Names of the figures that training logs: losses, and what the task reports besides."""

    def network(self, recipe: FinetuneRecipe) -> tuple[R2D2Model, R2D2Processor]:
        """What a run begins with; equal recipes give equal weights."""

    def load(self, out: Path) -> tuple[R2D2Model, R2D2Processor]:
        """The finished model of a run."""

    def knows(self, start: str) -> bool:
        """Whether the model to start from has trained all that the family measures."""

    def open_training(self, data: DataRecipe) -> tuple[list[Sample], Pictures]:
        """What is trained on."""

    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> MeasuredOn:
        """Another split of the same data."""

    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> MeasuredOn:
        """Further data, as `--also` names it."""

    def task(self, model: R2D2Model, processor: R2D2Processor, recipe: FinetuneRecipe) -> Task:
        """How batches become losses of the model."""

    def batches(
        self, samples: list[Sample], pictures: Pictures, processor: R2D2Processor, recipe: FinetuneRecipe, out: Path
    ) -> Batches:
        """This rank's batches of the steps from one number to before another."""

    def validate(self, model: R2D2Model, processor: R2D2Processor, of: Any, recipe: FinetuneRecipe) -> dict[str, float]:
        """Figures of a model that is in training."""

    def measure(
        self, model: R2D2Model, processor: R2D2Processor, of: Any, recipe: FinetuneRecipe, heads: bool = True
    ) -> Measurement:
        """A model with its intervals; `heads` is False where its cross encoders and heads are new and know nothing."""
