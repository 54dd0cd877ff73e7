"""What an ablation trains: the recipe that all rungs share, and one run for each rung and seed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel

from ccmb.core.choices import ObjectiveName
from ccmb.core.config import given_keys
from ccmb.core.config.given_keys import touches
from ccmb.core.config.recipe_files import load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write
from ccmb.tasks.ablation.ladder import Rung
from ccmb.tasks.ablation.stages import objectives_of, part_recipes, reaching_stages
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.starting import check_best, check_same_recipe, pretraining_log

SHARED = "recipe.yaml"


@dataclass(frozen=True, slots=True)
class Base:
    """The recipe that the rungs share, as it lies in the folder of the ablation.

    Attributes:
        kept: overrides that the file cannot hold, see `write_base`.
    """

    path: Path
    recipe: PretrainRecipe
    kept: tuple[str, ...]

    def with_changes(self, overrides: Sequence[str]) -> list[str]:
        """What is said to `ccmb pretrain` for some changes to the recipe."""
        kept = [text for text in self.kept if not any(touches(_key(text), _key(change)) for change in overrides)]
        return [*kept, *overrides]


@dataclass(frozen=True, slots=True)
class Run:
    """One rung with one seed.

    Attributes:
        overrides: those of the recipe that it is trained with, the seed among them.
        folder: its run folder.
        recipe: what it is trained with.
    """

    rung: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    recipe: PretrainRecipe

    @property
    def name(self) -> str:
        return f"{self.rung} seed {self.seed}"

    @property
    def objectives(self) -> list[ObjectiveName]:
        """Names of the objectives that it is trained with."""
        return objectives_of(self.recipe)

    @property
    def log(self) -> Path:
        """What its process said."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether its model is whole; the model card is what a run writes last."""
        return (self.folder / "model" / "README.md").is_file()


def write_base(recipe: PretrainRecipe, overrides: Sequence[str], out: Path) -> Base:
    """Write the given keys of a settled recipe to `out/recipe.yaml`, on which the rungs build.

    In the file the user's keys give way to a rung that leaves no use for them, as those of any recipe do. A file does
    not show that a value was given which is the default; where a model to start from has another one, that matters, and
    the key stays an override (`Base.kept`).

    Args:
        overrides: those that are in the recipe.

    Raises:
        CcmbError: the folder holds an ablation of another recipe.
    """
    shared = out / SHARED
    if shared.exists():
        try:
            before: object = load_recipe(PretrainRecipe, shared, settled=False)
        except CcmbError:
            before = None
        if before != recipe:
            raise CcmbError(
                f"{out}: this folder holds an ablation of another recipe; choose another --out or remove it"
            )
    else:
        with atomic_write(shared) as file:
            values = recipe.model_dump(mode="json", exclude_unset=True)
            yaml.safe_dump(values, file, allow_unicode=True, sort_keys=False)
    kept: tuple[str, ...] = ()
    if recipe.model.init_from:
        kept = tuple(text for text in overrides if _key(text) in _defaults_given(recipe.model, "model."))
    return Base(shared, recipe, kept)


def plan_runs(base: Base, ladder: Sequence[Rung], seeds: int, out: Path) -> list[Run]:
    """One run for each rung and seed, all rungs with the first seed first.

    Raises:
        UsageError: a rung's override is wrong; the message names the rung.
        CcmbError: a run folder holds a run of another recipe.
    """
    runs, first = [], base.recipe.training.seed
    for seed in range(first, first + seeds):
        for rung in ladder:
            changes = reaching_stages(base.recipe, rung.overrides)
            overrides = tuple(base.with_changes([*changes, f"training.seed={seed}"]))
            with _rung_named(rung), _silent():
                recipe = load_recipe(PretrainRecipe, base.path, overrides)
                for part in part_recipes(recipe):
                    check_best(part, pretraining_log(part.objectives))
            run = Run(rung.name, seed, overrides, out / "runs" / rung.name / f"seed-{seed}", recipe)
            check_same_recipe(recipe, run.folder)
            runs.append(run)
    return runs


@contextmanager
def _rung_named(rung: Rung) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"rung '{rung.name}': {error}") from None


@contextmanager
def _silent() -> Iterator[None]:
    """Within the context it is not told which keys give way: that is what a rung is for, and its log tells it."""
    logger = logging.getLogger(given_keys.__name__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _defaults_given(part: BaseModel, prefix: str) -> set[str]:
    """Keys that were given with the value that they have anyway."""
    keys = set[str]()
    for name in part.model_fields_set:
        value, field = getattr(part, name), type(part).model_fields[name]
        if isinstance(value, BaseModel):
            keys |= _defaults_given(value, f"{prefix}{name}.")
        elif value == field.get_default(call_default_factory=True):
            keys.add(f"{prefix}{name}")
    return keys


def _key(override: str) -> str:
    return override.partition("=")[0]
