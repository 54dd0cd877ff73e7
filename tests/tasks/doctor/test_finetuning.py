"""`ccmb doctor` on recipes of fine-tuning, by their names."""

import json

import pytest

from ccmb.core.config.recipe_files import RECIPES
from ccmb.core.errors import UsageError
from ccmb.tasks.finetuning.recipe import FINETUNING, find_any_recipe
from tests.helpers.runs import command_line
from tests.helpers.tuning import arguments, save_labelled, save_pairs, save_start


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def levels(out: str) -> dict[str, str]:
    return {result["check"]: result["level"] for result in json.loads(out)}


@pytest.mark.parametrize("name", sorted(path.stem for path in FINETUNING.glob("*.yaml")))
def test_every_shipped_recipe_of_fine_tuning_is_found_by_its_name(name):
    assert find_any_recipe(name, tunes=True) == (FINETUNING / f"{name}.yaml", True)
    shared = (RECIPES / f"{name}.yaml").is_file()
    assert find_any_recipe(name)[1] != shared
    assert find_any_recipe(str(FINETUNING / f"{name}.yaml"))[1]


def test_recipes_of_neither_kind_and_of_the_users_own(tmp_path):
    with pytest.raises(UsageError, match=r"mugg: no such recipe \(did you mean 'muge'\?\); .*flickr8k-cn.*quickstart"):
        find_any_recipe("mugg")
    (tmp_path / "a.yaml").write_text("data: {}\ntask: matching\n")
    (tmp_path / "b.yaml").write_text("data: {}\n")
    assert [find_any_recipe(str(tmp_path / name))[1] for name in ("a.yaml", "b.yaml")] == [True, False]


@pytest.mark.parametrize("name", ["retrieval", "matching", "captioning"])
def test_sound_data_and_a_model_pass(tmp_path, command, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start, save = save_start(tmp_path / "start"), save_labelled if name == "matching" else save_pairs
    data = save(tmp_path / "mine")
    if name == "matching":
        (data / "pairs.jsonl").rename(data / "labelled.jsonl")
    code, out, err = command("doctor", name, *arguments(data), "--model", start, "--json")
    assert err == ""
    assert {"lines", "unreadable", "validation", "network", "text length", "learning rate"} <= levels(out).keys()
    assert (levels(out)["validation"], levels(out)["network"], levels(out)["unreadable"]) == ("ok", "ok", "ok")
    assert code == ("problem" in levels(out).values())


def test_a_missing_model_validation_and_set_are_findings(tmp_path, command):
    data = save_pairs(tmp_path / "mine", splits=("train",))
    code, out, _ = command("doctor", "retrieval", *arguments(data), "--json")
    assert (code, levels(out)["network"], levels(out)["validation"]) == (1, "problem", "problem")
    code, out, _ = command("doctor", "muge", f"data.folder={tmp_path / 'mine'}", "--json")
    assert (code, levels(out)["data"]) == (1, "problem")
