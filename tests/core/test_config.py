"""Typed recipes: what files and overrides mean, and errors that name the key and where it stands."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.core.config.recipe_files import RECIPES, data_folder, find_recipe, find_weights, load_recipe, save_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.training.recipe import DataRecipe, OptimizerRecipe, TrainingRecipe

SMALL = "data: {folder: corpus}\ntraining: {steps: 100}\n"


@pytest.fixture
def load(tmp_path):
    def load(*overrides: str, content: str = SMALL) -> PretrainRecipe:
        path = tmp_path / "small.yaml"
        path.write_text(content, encoding="utf-8")
        return load_recipe(PretrainRecipe, path, overrides)

    return load


def test_every_shipped_recipe_is_valid():
    shipped = sorted(RECIPES.glob("*.yaml"))
    assert shipped
    for path in shipped:
        load_recipe(PretrainRecipe, path)


@pytest.mark.parametrize(("text", "value"), [("5e2", 500), ("500", 500), ("500.0", 500), ("0x10", 16)])
def test_numbers_of_steps_may_be_written_in_any_way(load, text, value):
    assert load(f"training.steps={text}").training.steps == value
    assert load(content=SMALL.replace("100", text)).training.steps == value


@pytest.mark.parametrize("text", ["5e-4", "5E-4", "0.0005", "5.e-4", ".5e-3", "+5e-4"])
def test_exponents_without_a_point_are_numbers_in_files_and_overrides(load, text):
    assert load(f"optimizer.lr={text}").optimizer.lr == 5e-4
    written = load(content=SMALL + f"model: {{vision: {{layer_norm_eps: {text}}}}}")
    assert written.model.vision == {"layer_norm_eps": 5e-4}


def test_texts_that_begin_like_numbers_stay_texts(load):
    assert load("data.split=5e-fold").data.split == "5e-fold"


@pytest.mark.parametrize("off", ["off", "no", "false", "Off"])
def test_an_objective_is_switched_off_by_a_word(load, off):
    recipe = load(f"objectives.fgr={off}")
    assert recipe.objectives.fgr.weight == 0
    assert recipe.objectives.off() == ["fgr"]


def test_later_overrides_win_and_may_reach_into_what_was_off(load):
    recipe = load("objectives.fgr=off", "objectives.fgr.weight=0.5", "training.steps=1", "training.steps=2")
    assert recipe.objectives.fgr.weight == 0.5
    assert recipe.training.steps == 2


def test_lists_mappings_and_nothing_can_be_given(load):
    recipe = load("data.fields=[captions, title]", "model.vision={model_type: vit}", "training.threads=")
    assert recipe.data.fields == ["captions", "title"]
    assert recipe.model.vision == {"model_type": "vit"}
    assert recipe.training.threads is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.step=5", r"override 'training\.step=5': unknown key 'training\.step' \(did you mean 'steps'\?\)"),
        ("trainig.steps=5", r"unknown key 'trainig' \(did you mean 'training'\?\)"),
        ("objectives.fgr.wieght=1", r"unknown key 'objectives\.fgr\.wieght' \(did you mean 'weight'\?\)"),
        ("data.augmentation.flips=on", r"unknown key .* \(did you mean 'flip'\?\)"),
        ("optimizer.zzz=1", r"unknown key 'optimizer\.zzz'; known keys: lr, cross_lr"),
        ("training.steps=0", r"'training\.steps' = 0: input should be greater than 0"),
        ("training.steps=1.5", r"'training\.steps' = 1\.5: .*integer"),
        ("training.steps=many", r"'training\.steps' = 'many': .*integer"),
        ("training.seed=-1", r"'training\.seed' = -1"),
        ("optimizer.lr=.inf", r"'optimizer\.lr' = inf: .*finite"),
        ("optimizer.betas=[0.9]", r"override 'optimizer\.betas=\[0\.9\]'.*betas"),
        ("training.precision=fp16", r"'training\.precision' = 'fp16': .*'bf16' or 'fp32'"),
        (
            "data.field_starts=[0.5]",
            r"'data\.field_starts' = \[0\.5\]: .*one share in \[0, 1\] for each of the 1 fields",
        ),
        ("data.field_starts=[0, 0.5]", r"'data\.field_starts' = \[0, 0\.5\]: .*one share"),
        ("training=5", r"'training' = 5"),
        ("training.steps", "write key=value"),
        ("=5", "write key=value"),
        ("data.fields=[a", "the value is not valid YAML"),
        ("data={folder: a, split: b, folder: c}", "the value is not valid YAML .folder is given twice.* line 1"),
        ("data.split=" + "[" * 1000, "the value is not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_with_its_key(load, override, message):
    with pytest.raises(UsageError, match=message) as caught:
        load(override)
    assert "\n" not in str(caught.value)


def test_a_wrong_key_of_the_file_is_named_with_the_file_though_other_keys_are_overridden(load):
    with pytest.raises(UsageError, match=r"small\.yaml: unknown key 'training\.stepps'"):
        load("training.batch_size=8", content="data: {folder: corpus}\ntraining: {steps: 5, stepps: 5}\n")


def test_a_missing_key_is_named(load):
    with pytest.raises(UsageError, match=r"small\.yaml: key 'training\.steps' is missing"):
        load(content="data: {folder: x}\ntraining: {}")
    with pytest.raises(UsageError, match=r"key 'data' is missing"):
        load(content="")


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2", "text", "a: !!python/object:os.system {}", "day: 2024-13-45"])
def test_a_file_that_is_not_a_recipe_is_one_line(load, content):
    with pytest.raises(CcmbError, match=r"small\.yaml: ") as caught:
        load(content=content)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_one_line(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(CcmbError, match=r"a\.yaml:1: not UTF-8 text"):
        load_recipe(PretrainRecipe, tmp_path / "a.yaml")


@settings(max_examples=30, deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    steps=st.integers(1, 10**9),
    folder=st.text(st.characters(codec="utf-8")),
    flip=st.booleans(),
)
def test_a_saved_recipe_reads_back_equal(tmp_path_factory, lr, steps, folder, flip):
    data = DataRecipe.model_validate({"folder": folder, "augmentation": {"flip": flip}})
    recipe = PretrainRecipe(data=data, optimizer=OptimizerRecipe(lr=lr), training=TrainingRecipe(steps=steps))
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    save_recipe(recipe, path)
    assert load_recipe(PretrainRecipe, path) == recipe


def test_recipes_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SMALL)
    assert find_recipe("mine.yaml") == Path("mine.yaml")
    assert find_recipe("quickstart") == RECIPES / "quickstart.yaml"
    with pytest.raises(UsageError, match=r"quikstart: no such recipe \(did you mean 'quickstart'\?\)"):
        find_recipe("quikstart")


def test_data_is_looked_for_here_and_under_the_data_root(tmp_path, monkeypatch):
    (tmp_path / "root" / "flickr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CCMB_DATA", raising=False)
    with pytest.raises(CcmbError, match=r"flickr: no such folder; .*CCMB_DATA"):
        data_folder("flickr")
    monkeypatch.setenv("CCMB_DATA", str(tmp_path / "root"))
    assert data_folder("flickr") == tmp_path / "root" / "flickr"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("~/root/flickr") == tmp_path / "root" / "flickr"


def test_folders_of_weights_are_found_below_the_data_and_other_names_are_a_hubs(tmp_path, monkeypatch):
    monkeypatch.delenv("CCMB_DATA", raising=False)
    assert find_weights("weights/tower") == "weights/tower"
    (tmp_path / "weights" / "tower").mkdir(parents=True)
    monkeypatch.setenv("CCMB_DATA", str(tmp_path))
    assert find_weights("weights/tower") == str(tmp_path / "weights" / "tower")
    assert find_weights(str(tmp_path / "weights")) == str(tmp_path / "weights")
    assert find_weights("google/siglip") == "google/siglip"
