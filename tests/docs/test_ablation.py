"""The page on ablations: its ladder is the default one, and its file of rungs is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ccmb.core.choices import OBJECTIVE_NAMES
from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.tasks.ablation.ladder import DEFAULT, read_ladder
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.pages import blocks, read

PAGES = ("docs/ablation.md", "docs/ablation.zh.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_ladder_is_the_default_one(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (?:`(\w+)` )?\|$", read(page), re.MULTILINE)
    assert {name: before or None for name, _, before in rows} == {name: before for name, (_, before) in DEFAULT.items()}
    for name, words, _ in rows[1:-1]:
        assert words == " + ".join(OBJECTIVE_NAMES[objective] for objective in DEFAULT[name][0])


@pytest.mark.parametrize("page", PAGES)
def test_the_file_of_rungs_is_read(page: str, tmp_path: Path) -> None:
    path = tmp_path / "ladder.yaml"
    [text] = blocks(page, "yaml")
    path.write_text(text)
    rungs = read_ladder(path)
    recipes = [load_recipe(PretrainRecipe, find_recipe("flickr8k-cn"), rung.overrides) for rung in rungs]
    assert [recipe.objectives.fgr.hardness for recipe in recipes] == [0.0, 0.5, 1.0]
