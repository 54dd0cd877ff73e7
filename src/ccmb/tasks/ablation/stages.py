"""An ablation of a recipe in stages: what a rung changes in each, what any trains, and how far a run has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccmb.core.choices import ObjectiveName
from ccmb.core.config.given_keys import touches
from ccmb.tasks.pretraining.model_card import CARD_FILE
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import LENGTHS, StageRecipe, in_stages, joint_objectives
from ccmb.tasks.pretraining.starting import stage_folder
from ccmb.training.checkpoints import list_checkpoints
from ccmb.training.runs.run_folder import read_run


def reaching_stages(recipe: PretrainRecipe, overrides: Sequence[str]) -> list[str]:
    """The overrides, and each once more for every stage that gives its key, which would win otherwise.

    An objective that a stage switches off stays off in it, whatever an override says of it. A key that all stages give
    would do nothing beside them, and is theirs alone.
    """
    reached = [[list(_in_stage(stage, override)) for override in overrides] for stage in recipe.stages]
    result = [text for text, *its in zip(overrides, *reached, strict=True) if not its or not all(its)]
    for stage, texts in zip(recipe.stages, reached, strict=True):
        result += (f"stages.{stage.name}.{text}" for its in texts for text in its)
    return result


def objectives_of(recipe: PretrainRecipe) -> list[ObjectiveName]:
    """Names of the objectives that a run trains, in one of its stages if it has stages."""
    return joint_objectives(part_recipes(recipe)).on()


def part_recipes(recipe: PretrainRecipe) -> list[PretrainRecipe]:
    """The whole recipe of each stage; the recipe itself where it has none."""
    return in_stages(recipe) if recipe.stages else [recipe]


def saved_step(recipe: PretrainRecipe, folder: Path) -> int:
    """The step of a run, counted over all stages, that it would go on from; 0 if nothing is saved."""
    if not recipe.stages:
        return _newest(folder)
    before = 0
    for number, stage in enumerate(recipe.stages, start=1):
        of_stage = stage_folder(folder, number, stage.name)
        if not (of_stage / "model" / CARD_FILE).is_file():
            return before + _newest(of_stage)
        before += read_run(of_stage).steps or 0
    return before


def _newest(folder: Path) -> int:
    return max(list_checkpoints(folder / "checkpoints"), default=0)


def _in_stage(stage: StageRecipe, override: str) -> Iterator[str]:
    """What an override says to a stage, by keys of the stage."""
    key, _, value = override.partition("=")
    given = [one.removeprefix(f"{stage.name}.") for one in stage.given()]
    other = LENGTHS.get(key)
    if other in given and value:
        yield f"{other}="
        yield override
    elif any(touches(key, one) for one in given) and not _stays_off(stage, key):
        yield override


def _stays_off(stage: StageRecipe, key: str) -> bool:
    section, *names = key.split(".")
    value: Any = stage.objectives.get(names[0]) if section == "objectives" and names else None
    return value is False or (isinstance(value, Mapping) and value.get("weight") == 0)
