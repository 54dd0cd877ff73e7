"""Changes to a recipe whose stages give keys of their own: a rung's overrides are applied last, to each stage too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ccmb.core.choices import PAPER_NAMES, ObjectiveName
from ccmb.core.config.given_keys import touches
from ccmb.tasks.pretraining.recipe import PretrainRecipe


class Stage(Protocol):
    """The part of a recipe's stage that is read: its name, and the keys that differ from the recipe's."""

    name: str
    objectives: dict[str, Any]

    def given(self) -> Iterable[str]:
        """The given keys in full, with the stage's name before them."""


def stages_of(recipe: PretrainRecipe) -> Sequence[Stage]:
    """The stages of a recipe; none where it is trained as a whole."""
    stages: Sequence[Stage] = getattr(recipe, "stages", ())
    return stages


def reaching_stages(recipe: PretrainRecipe, overrides: Sequence[str]) -> list[str]:
    """The overrides, and each once more for every stage that gives its key, which would win otherwise."""
    result = list(overrides)
    for stage in stages_of(recipe):
        given = list(stage.given())
        for override in overrides:
            key = override.partition("=")[0]
            if any(touches(f"{stage.name}.{key}", one) for one in given):
                result.append(f"stages.{stage.name}.{override}")
    return result


def objectives_of(recipe: PretrainRecipe) -> list[ObjectiveName]:
    """Names of the objectives that are on, in the recipe or in one of its stages."""
    on = set(recipe.objectives.on())
    for stage in stages_of(recipe):
        for name in PAPER_NAMES:
            value = stage.objectives.get(name)
            if value is True or (isinstance(value, Mapping) and value.get("weight")):
                on.add(name)
    return [name for name in PAPER_NAMES if name in on]
