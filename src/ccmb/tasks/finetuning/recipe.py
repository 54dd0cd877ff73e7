"""Recipes of fine-tuning: all that a run depends on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.given_keys import Unused
from ccmb.core.config.recipe_files import RECIPES
from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.text.files import text_lines
from ccmb.objectives.captioning import CaptioningOptions
from ccmb.objectives.config import MaskedLanguage, Objective, Objectives, TargetGuided
from ccmb.objectives.generation import GenerationOptions
from ccmb.objectives.matching import MatchingOptions
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.unused_keys import unused_in_finetuning

# Where the shipped recipes are.
FINETUNING = RECIPES / "finetuning"
TaskName = Literal["retrieval", "matching", "captioning", "generation"]


class FinetuneObjectives(Objectives):
    """Those of the official fine-tuning are on: GCPR and FGR, of equal weight."""

    mlm: MaskedLanguage = MaskedLanguage(weight=0)
    tgd: TargetGuided = TargetGuided(weight=0)
    fgd: Objective = Objective(weight=0)


class ValidationRecipe(ConfigBase):
    """What the best checkpoint is chosen by, and both models are measured on in the end. Never the test split."""

    RETIRED: ClassVar = {"pictures": "images", "depth": "rerank_k"}
    split: str | None = Field("val", description="of the data; without one nothing is measured or chosen")
    every: int | None = Field(
        None,
        ge=0,
        description="steps from one validation to the next; by default what a pass over all texts takes, 0 for none",
    )
    images: int | None = Field(None, gt=0, description="use only the first so many images and their texts")
    fields: list[str] | None = Field(None, min_length=1, description="text fields of own pairs; by default data.fields")
    rerank_k: int = Field(128, gt=0, description="candidates of the first stage that the second one ranks")


class FinetuneRecipe(PretrainRecipe):
    """All that a fine-tuning run depends on; `model.init_from` is what it begins with."""

    task: TaskName = "retrieval"
    objectives: FinetuneObjectives = FinetuneObjectives()
    matching: MatchingOptions = MatchingOptions()
    captioning: CaptioningOptions = CaptioningOptions()
    generation: GenerationOptions = GenerationOptions()
    validation: ValidationRecipe = ValidationRecipe()

    def unused(self) -> Iterator[Unused]:
        if self.stages:
            why = "pre-training goes in stages; fine-tune once for each, with --model the run before"
            yield Unused(("stages",), why, ())
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
