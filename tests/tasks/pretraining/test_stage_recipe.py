"""Stages of a recipe: what each changes, the messages that name its keys, and keys that would do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ccmb.core.config.recipe_files import load_recipe, save_recipe
from ccmb.core.errors import UsageError
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import SEEDS_APART, in_stages, joint_objectives

RECIPE: dict[str, Any] = {
    "data": {"folder": "x", "num_workers": 0},
    "model": {"preset": "r2d2-tiny", "freeze": {"image": "all", "text": 1}},
    "objectives": {"fgr": {"weight": 0, "hardness": 0.5}},
    "optimizer": {"lr": 0.001},
    "stages": [
        {"name": "towers", "training": {"steps": 5}},
        {
            "name": "heads",
            "model": {"freeze": {"image": 2}},
            "objectives": {"fgr": True, "mlm": {"start_at": 0.5}},
            "optimizer": {"lr": 0.0001},
            "training": {"epochs": 2, "batch_size": 64},
        },
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return file


def test_each_stage_is_the_recipe_with_its_differences(path: Path) -> None:
    recipe = load_recipe(PretrainRecipe, path)
    towers, heads = in_stages(recipe)
    assert (towers.training.steps, towers.training.epochs, towers.training.batch_size) == (5, None, 128)
    assert (heads.training.epochs, heads.training.batch_size) == (2, 64)
    assert towers.model.frozen() == {"image": "all", "text": 1}
    assert heads.model.frozen() == {"image": 2, "text": 1}
    assert (heads.objectives.fgr.weight, heads.objectives.fgr.hardness) == (1, 0.5)
    assert (towers.objectives.mlm.start_at, heads.objectives.mlm.start_at) == (0, 0.5)
    assert (towers.optimizer.lr, heads.optimizer.lr) == (0.001, 0.0001)
    assert (towers.training.seed, heads.training.seed) == (0, SEEDS_APART)
    assert towers.stages == heads.stages == []
    assert {"fgr", "mlm"} <= {*joint_objectives([towers, heads]).on()}


def test_a_stage_may_replace_one_of_two_keys_that_exclude_each_other(path: Path) -> None:
    changes = [
        "training.epochs=3",
        "stages.towers.training={}",
        "stages.towers.model.freeze_image_tower=true",
        "stages.heads.data.shards=[a.tar]",
        "stages.heads.training={steps: 7}",
    ]
    towers, heads = in_stages(load_recipe(PretrainRecipe, path, changes))
    assert towers.model.frozen() == {"image": "all", "text": 1}
    assert (heads.data.folder, heads.data.shards) == (None, ["a.tar"])
    assert (heads.training.epochs, heads.training.steps) == (None, 7)


def test_without_stages_the_key_is_not_written_and_the_length_must_be_given(path: Path, tmp_path: Path) -> None:
    plain = load_recipe(PretrainRecipe, path, ["stages=[]", "training.steps=9", "objectives.fgr=off"])
    save_recipe(plain, tmp_path / "plain.yaml")
    assert "stages" not in yaml.safe_load((tmp_path / "plain.yaml").read_text())
    with pytest.raises(UsageError, match=r"key 'training' is missing"):
        load_recipe(PretrainRecipe, path, ["stages=[]"])
    with pytest.raises(UsageError, match=r"key 'training' is missing"):
        load_recipe(PretrainRecipe, path, ["stages.towers.training={}"])


def test_what_is_saved_loads_as_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(PretrainRecipe, path)
    save_recipe(recipe, tmp_path / "saved.yaml")
    for settled in (True, False):
        again = load_recipe(PretrainRecipe, tmp_path / "saved.yaml", settled=settled)
        assert again == recipe
        assert in_stages(again) == in_stages(recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.1.optimizer.lr=-1", "'stages.heads.optimizer.lr' = -1: input should be greater than 0"),
        ("stages.heads.optimizer.lr=-1", "'stages.heads.optimizer.lr' = -1: input should be greater than 0"),
        ("stages.heads.optimizer.lrr=1", "unknown key 'stages.heads.optimizer.lrr' (did you mean 'lr'?)"),
        ("stages.towers.training.steps=0", "'stages.towers.training.steps' = 0"),
        ("stages.0.seed=1", "unknown key 'stages.towers.seed'"),
        ("stages.2.training.steps=1", "stages has no '2'; it has towers, heads"),
        ("stages.head.training.steps=1", "stages has no 'head'; it has towers, heads"),
        ("stages.heads=1", "name a key of the item too"),
        ("stages.heads.model.embed_dim=3", "'stages.heads.model.embed_dim' = 3: it is one for all stages"),
        ("stages.heads.training.seed=3", "'stages.heads.training.seed' = 3: it is one for all stages"),
        ("stages.heads.optimizer.lr_decay_stages=0", "'stages.heads.optimizer.lr_decay_stages' = 0"),
    ],
)
def test_an_error_names_the_override_and_the_key_with_its_stage(path: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe(PretrainRecipe, path, [override])
    named = override.replace("stages.0.", "stages.towers.").replace("stages.1.", "stages.heads.")
    assert str(error.value).startswith(f"override '{named}': ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.heads.name=towers", "an earlier stage has this name"),
        ("stages.towers.name=The first", "string should match pattern"),
        ("stages.towers.model.image_size=64", "'stages.heads.model.image_size' = None: stage towers gives it, so"),
    ],
)
def test_stages_go_together(path: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe(PretrainRecipe, path, [override])
    assert message in str(error.value)


def test_a_key_that_does_nothing_in_its_stage_is_refused_and_one_of_the_recipe_that_does_nothing_in_any(
    path: Path,
) -> None:
    refused = {
        "stages.towers.objectives.fgr.batch_share=0.5": "'stages.towers.objectives.fgr.batch_share' would do nothing",
        "stages.heads.data.streams=2": "'stages.heads.data.streams' would do nothing (of shards",
        "data.streams=2": "'data.streams' would do nothing (of shards",
        "training.steps=9": "'training.steps' would do nothing (every stage gives its own)",
    }
    for override, message in refused.items():
        with pytest.raises(UsageError) as error:
            load_recipe(PretrainRecipe, path, [override])
        assert str(error.value).startswith(f"override '{override}': {message}")
    load_recipe(PretrainRecipe, path, ["objectives.fgr.batch_share=0.5"])  # of use in one stage
    load_recipe(PretrainRecipe, path, ["training.steps=9", "stages.heads.training={batch_size: 64}"])


def test_a_key_that_every_stage_gives_is_refused_beside_them(path: Path) -> None:
    with pytest.raises(UsageError, match=r"'optimizer\.lr' would do nothing \(every stage gives its own\)"):
        load_recipe(PretrainRecipe, path, ["optimizer.lr=1", "stages.towers.optimizer.lr=2"])
    recipe = load_recipe(PretrainRecipe, path, ["stages.towers.optimizer.lr=2"])  # to which the recipe's gives way
    assert [stage.optimizer.lr for stage in in_stages(recipe)] == [2, 0.0001]


@pytest.mark.usefixtures("lines")
def test_a_key_of_a_stage_in_the_file_gives_way_to_an_override(tmp_path: Path) -> None:
    values = RECIPE | {"stages": [RECIPE["stages"][0], {"name": "heads", "training": {"steps": 3},
              "objectives": {"mlm": {"probability": 0.3}}}], "objectives": {}}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    changes = ["stages.heads.objectives.mlm.weight=0", "stages.heads.objectives.fgd=off"]
    recipe = load_recipe(PretrainRecipe, tmp_path / "recipe.yaml", changes)
    assert recipe.stages[1].objectives == {"mlm": {"weight": 0}, "fgd": False}


def test_fine_tuning_refuses_stages(path: Path) -> None:
    with pytest.raises(UsageError, match=r"would do nothing \(pre-training goes in stages; fine-tune once for each"):
        load_recipe(FinetuneRecipe, path)
