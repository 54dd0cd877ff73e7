"""What fine-tuning is made of: its recipe, what a family of tasks brings to it, and what a measurement is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.given_keys import Unused
from ccmb.core.config.recipe_files import RECIPES
from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.text.files import text_lines
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.objectives.captioning import CaptioningOptions
from ccmb.objectives.config import MaskedLanguage, Objective, Objectives, TargetGuided
from ccmb.objectives.generation import GenerationOptions
from ccmb.objectives.matching import MatchingOptions
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.towers import is_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import build_network
from ccmb.tasks.pretraining.unused_keys import unused_in_finetuning
from ccmb.training.recipe import DataRecipe
from ccmb.training.trainer import Task

# Where the shipped recipes are.
FINETUNING = RECIPES / "finetuning"
TaskName = Literal["retrieval", "matching", "captioning", "generation"]
Batches = Callable[[int, int], Iterator[Any]]


class FinetuneObjectives(Objectives):
    """Those of the official fine-tuning are on: GCPR and FGR, of equal weight."""

    mlm: MaskedLanguage = MaskedLanguage(weight=0)
    tgd: TargetGuided = TargetGuided(weight=0)
    fgd: Objective = Objective(weight=0)


class ValidationRecipe(ConfigBase):
    """What the best checkpoint is chosen by, and both models are measured on in the end. Never the test split."""

    split: str | None = Field("val", description="of the data; without one nothing is measured or chosen")
    every: int | None = Field(
        None,
        ge=0,
        description="steps from one validation to the next; by default what a pass over all texts takes, 0 for none",
    )
    pictures: int | None = Field(None, gt=0, description="use only the first so many pictures and their texts")
    fields: list[str] | None = Field(None, min_length=1, description="text fields of own pairs; by default data.fields")
    depth: int = Field(128, gt=0, description="candidates of the first stage that the second one ranks")


class FinetuneRecipe(PretrainRecipe):
    """All that a fine-tuning run depends on; `model.start` is what it begins with."""

    task: TaskName = "retrieval"
    objectives: FinetuneObjectives = FinetuneObjectives()
    matching: MatchingOptions = MatchingOptions()
    captioning: CaptioningOptions = CaptioningOptions()
    generation: GenerationOptions = GenerationOptions()
    validation: ValidationRecipe = ValidationRecipe()

    def unused(self) -> Iterator[Unused]:
        yield from super().unused()
        yield from unused_in_finetuning(self)


def find_any_recipe(name: str, tunes: bool = False) -> tuple[Path, bool]:
    """The file of a recipe of either kind, and whether it is one of fine-tuning.

    A name that both kinds ship is that of pre-training, unless `tunes`; `finetuning/NAME` is always the other. A file
    of the user's is one of fine-tuning where it has a key that only those have.

    Raises:
        UsageError: there is no such recipe; the message lists the shipped ones.
        CcmbError: the file cannot be read.
    """
    path = Path(name)
    if not path.is_file():
        shipped = [folder / f"{name}.yaml" for folder in ((FINETUNING, RECIPES) if tunes else (RECIPES, FINETUNING))]
        known = sorted({path.stem for folder in (RECIPES, FINETUNING) for path in folder.glob("*.yaml")})
        path = next((path for path in shipped if path.is_file()), path)
        if not path.is_file():
            names = ", ".join(known)
            raise UsageError(f"{name}: no such recipe{did_you_mean(name, known)}; shipped recipes: {names}")
    if tunes or path.parent == FINETUNING:
        return path, True
    own = FinetuneRecipe.model_fields.keys() - PretrainRecipe.model_fields.keys()
    try:
        lines = list(text_lines(path))
    except CcmbError:
        return path, False  # whose reader says why
    return path, any(line.startswith(tuple(f"{key}:" for key in own)) for line in lines)


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

    def open_training(self, data: DataRecipe) -> tuple[list[Sample], ImageSource]:
        """What is trained on."""

    def open_held_out(self, recipe: FinetuneRecipe, split: str) -> MeasuredOn:
        """Another split of the same data."""

    def open_also(self, spec: str, split: str, fields: Sequence[str]) -> MeasuredOn:
        """Further data, as `--also` names it."""

    def task(self, model: R2D2Model, processor: R2D2Processor, recipe: FinetuneRecipe) -> Task:
        """How batches become losses of the model."""

    def batches(
        self, samples: list[Sample], pictures: ImageSource, processor: R2D2Processor, recipe: FinetuneRecipe, out: Path
    ) -> Batches:
        """This rank's batches of the steps from one number to before another."""

    def validate(self, model: R2D2Model, processor: R2D2Processor, of: Any, recipe: FinetuneRecipe) -> dict[str, float]:
        """Figures of a model that is in training."""

    def measure(
        self, model: R2D2Model, processor: R2D2Processor, of: Any, recipe: FinetuneRecipe, heads: bool = True
    ) -> Measurement:
        """A model with its intervals; `heads` is False where its cross encoders and heads are new and know nothing."""
