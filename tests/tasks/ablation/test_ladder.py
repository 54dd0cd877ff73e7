"""The ladder: the paper's objectives one after another, or a file of own rungs whose faults are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.tasks.ablation.ladder import Rung, choose, default_ladder, read_ladder
from ccmb.tasks.pretraining.recipe import PretrainRecipe


def ladder_of(*overrides: str, recipe: str = "quickstart") -> list[Rung]:
    return default_ladder(load_recipe(PretrainRecipe, find_recipe(recipe), overrides))


def objectives_on(rung: Rung) -> list[str]:
    return load_recipe(PretrainRecipe, find_recipe("quickstart"), rung.overrides).objectives.on()


def test_the_default_ladder_adds_objectives_and_ends_with_the_recipe() -> None:
    ladder = ladder_of()
    assert {rung.name: objectives_on(rung) for rung in ladder} == {
        "towers": ["gcpr"],
        "fgr": ["gcpr", "fgr"],
        "mlm": ["gcpr", "fgr", "mlm"],
        "tgd": ["gcpr", "fgr", "mlm", "tgd"],
        "fgd": ["gcpr", "fgr", "mlm", "fgd"],
        "all": ["gcpr", "fgr", "mlm", "tgd", "fgd"],
    }
    compared = {rung.name: rung.compared_with for rung in ladder}
    assert compared == {"towers": None, "fgr": "towers", "mlm": "fgr", "tgd": "mlm", "fgd": "mlm", "all": "mlm"}
    assert ladder[-1].overrides == ()
    assert "model.cross_layers=0" in ladder[0].overrides
    assert all("model.cross_layers=0" not in rung.overrides for rung in ladder[1:])


def test_objectives_that_the_recipe_leaves_out_make_no_rung() -> None:
    ladder = ladder_of("objectives.mlm=off", "objectives.fgd=off")
    assert [(rung.name, rung.compared_with) for rung in ladder] == [("towers", None), ("fgr", "towers"), ("tgd", "fgr")]
    ladder = ladder_of("objectives.fgr=off", "objectives.mlm=off", "model.cross_layers=0")
    assert [(rung.name, rung.compared_with) for rung in ladder] == [
        ("towers", None), ("tgd", "towers"), ("fgd", "towers"), ("all", "towers"),
    ]  # fmt: skip
    assert "model.cross_layers=0" not in ladder[0].overrides


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("model.preset=r2d2-base", "model.preset=prd2-base"),
        ("model.preset=r2d2-tiny", None),
    ],
)
def test_towers_alone_are_the_network_without_cross_encoders_where_it_can_be_had(
    override: str, change: str | None
) -> None:
    changes = [text for text in ladder_of(override)[0].overrides if text.startswith("model.")]
    assert changes == ([change] if change else [])


def test_the_network_of_a_model_to_start_from_is_left_as_it_is() -> None:
    recipe = load_recipe(PretrainRecipe, find_recipe("quickstart"))
    started = recipe.model_copy(update={"model": recipe.model.model_copy(update={"init_from": "RUN"})})
    assert default_ladder(started)[0].overrides == ladder_of()[0].overrides[:-1]


def test_rungs_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ladder.yaml"
    path.write_text(
        "plain:\neasy: {objectives.fgr.hardness: 0.0, model.vision: {a: [1, 2]}}\nhard: [objectives.fgr.hardness=1]\n"
    )
    assert read_ladder(path) == [
        Rung("plain", (), None),
        Rung("easy", ("objectives.fgr.hardness=0.0", "model.vision={a: [1, 2]}"), "plain"),
        Rung("hard", ("objectives.fgr.hardness=1",), "easy"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1", "not valid YAML"),
        ("", "a ladder is names with overrides"),
        ("- a", "a ladder is names with overrides"),
        ("off: {x: 1}", "rung False: YAML reads this name as no text; write it in quotes"),
        ("a/b: {x: 1}", "rung 'a/b': give a name of letters"),
        ("a: {x: 1}\nA: {x: 2}", "rung 'A': there are two of this name"),
        ("a: {x: 1}\na: {x: 2}", "not valid YAML (a is given twice"),
        ("a: 3", "rung 'a': give keys with values, or a list of key=value, not 3"),
        ("a: [1]", "rung 'a': give keys with values"),
        ("a: {training.seed: 3}", "rung 'a': 'training.seed=3': seeds are those of --seeds"),
    ],
)
def test_faults_of_a_file_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ladder.yaml"
    path.write_text(text)
    with pytest.raises(CcmbError) as error:
        read_ladder(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_rungs_are_chosen_by_name_and_compared_with_a_chosen_one() -> None:
    chosen = choose(ladder_of(), ["all", "towers", "tgd"])  # in the order of the ladder
    assert [(rung.name, rung.compared_with) for rung in chosen] == [
        ("towers", None), ("tgd", "towers"), ("all", "tgd"),
    ]  # fmt: skip
    assert choose(ladder_of(), ["fgr", "mlm"])[0].compared_with is None
    assert choose(ladder_of(), []) == ladder_of()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fgr", "mml"], "--rungs mml: no such rung (did you mean 'mlm'?); rungs: towers, fgr"),
        (["fgr", "fgr"], "--rungs fgr: given twice"),
        (["fgr"], "at least two rungs, and this ladder has 1 (fgr)"),
    ],
)
def test_wrong_choices_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        choose(ladder_of(), names)
    assert message in str(error.value)
