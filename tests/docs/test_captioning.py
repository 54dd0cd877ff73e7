"""The page on captions: its commands run as they stand, and its tables name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.files import read_json
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from tests.helpers.pages import CAPTION_PAGES, VERBS, blocks, read
from tests.helpers.runs import command_line
from tests.helpers.tuning import save_what_pages_name


@pytest.mark.parametrize("page", CAPTION_PAGES)
def test_keys_options_and_recipes_of_the_tables_exist(page: str) -> None:
    cells: list[str] = re.findall(r"^\| (`[^|]*`) +\|", read(page), re.MULTILINE)
    for override in [cell.strip("`") for cell in cells if "=" in cell]:
        load_recipe(FinetuneRecipe, find_recipe("captioning", FINETUNING), ["data.folder=x", override])
    options = set(re.findall(r"`(--[\w-]+)", "".join(cell for cell in cells if "--" in cell)))
    known = {name for parameter in VERBS["caption"].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {"--rerank", "--no-rerank"} < options <= known
    recipes = {cell.strip("`") for cell in cells if "=" not in cell and "--" not in cell}
    shipped = {load.stem for load in FINETUNING.glob("*.yaml") if "task: captioning" in load.read_text("utf-8")}
    assert recipes == shipped


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_what_pages_name()
    for name in ("cat.jpg", "dog.jpg"):
        Image.new("RGB", (40, 40), "red").save(name)
    command = command_line(monkeypatch, capfd)
    for line in blocks("docs/captioning.md", "bash")[0].splitlines():
        result = command(*shlex.split(line)[1:])
        assert result.code == 0, result.err
    assert read_json("captions.json")["captioning"]["pictures"] == 8
    assert Path("results/mydata.val/captions.json").is_file()
