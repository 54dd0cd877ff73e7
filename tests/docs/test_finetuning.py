"""The page on fine-tuning: its first commands run as they stand, and its tables name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.files import read_json
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from tests.helpers.downstream_samples import write_flickr8k
from tests.helpers.pages import TUNING_PAGES, blocks, read
from tests.helpers.runs import command_line
from tests.helpers.tuning import save_what_pages_name


@pytest.mark.parametrize("page", TUNING_PAGES)
def test_keys_and_recipes_of_the_tables_exist(page: str) -> None:
    overrides = [key for key in re.findall(r"^\| `([^|]*)` \|", read(page), re.MULTILINE) if "=" in key]
    assert len(overrides) > 8
    for cell in overrides:
        given = [
            word for text in re.split("`(?:, |、)`", cell) for word in shlex.split(text) if not word.endswith("=N")
        ]
        depth = [word.replace("=K", "=7") for word in given]
        load_recipe(FinetuneRecipe, find_recipe("retrieval", FINETUNING), ["data.folder=x", *depth])
    rows = [row for row in re.findall(r"^\| (`[^|]*`) \|", read(page), re.MULTILINE) if "=" not in row]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == {path.stem for path in FINETUNING.glob("*.yaml")}


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_what_pages_name()
    write_flickr8k(Path("flickr8k-cn"))
    command = command_line(monkeypatch, capfd)
    for line in blocks("docs/finetuning.md", "bash")[0].splitlines():
        result = command(*shlex.split(line)[1:])
        assert result.code == 0, result.err
    sets = read_json("runs/mydata/finetune.json")["sets"]
    assert [(dataset["name"], dataset["split"]) for dataset in sets] == [
        ("mydata", "val"),
        ("mydata", "test"),
        ("flickr8k-cn", "val"),
    ]
    assert "mean recall" in result.out
