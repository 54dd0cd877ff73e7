"""A recipe that is laid over another: keys are replaced one by one, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccmb.core.config.recipe_files import RECIPES, load_recipe
from ccmb.core.errors import UsageError
from ccmb.tasks.pretraining.recipe import PretrainRecipe


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_keys_are_laid_over_those_of_the_base(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", "data: {folder: x, split: train}\nmodel: {preset: tiny}\ntraining: {steps: 5}\n")
    write(tmp_path / "two.yaml", "base: one\ntraining: {batch_size: 4}\n")
    three = write(tmp_path / "three.yaml", "base: two.yaml\ndata: {split: val}\ntraining: {steps: 7}\n")
    recipe = load_recipe(PretrainRecipe, three, ["training.seed=3"])
    training = recipe.training
    assert (recipe.data.folder, recipe.data.split) == ("x", "val")
    assert (training.steps, training.batch_size, training.seed) == (7, 4, 3)


def test_a_base_that_is_not_there_or_leads_back_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"multilingal: no such recipe \(did you mean 'flickr8k-multilingual'"):
        load_recipe(PretrainRecipe, write(tmp_path / "a.yaml", "base: flickr8k-multilingal\n"))
    write(tmp_path / "b.yaml", "base: c\n")
    with pytest.raises(UsageError, match="leads back to itself"):
        load_recipe(PretrainRecipe, write(tmp_path / "c.yaml", "base: b\n"))


@pytest.mark.parametrize("language", ["zh", "en"])
def test_recipes_of_one_language_differ_from_that_of_all_in_it_alone(language: str) -> None:
    one, every = (
        load_recipe(PretrainRecipe, RECIPES / f"flickr8k-{name}.yaml") for name in (f"{language}-only", "multilingual")
    )
    assert every.data.languages is not None
    assert one.data.languages == {language: every.data.languages[language]}
    assert one.model == every.model
    assert one.data.pairs == every.data.pairs
