"""The page on text-to-image: its commands run as they stand, and its tables name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.files import read_json
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from tests.helpers.pages import GENERATION_PAGES, VERBS, blocks, read
from tests.helpers.runs import command_line
from tests.helpers.tuning import save_what_pages_name


@pytest.mark.parametrize("page", GENERATION_PAGES)
def test_keys_options_and_recipes_of_the_page_exist(page: str) -> None:
    cells: list[str] = [cell.strip("`") for cell in re.findall(r"^\| (`[^|]*`) +\|", read(page), re.MULTILINE)]
    for override in [cell for cell in cells if "=" in cell]:
        load_recipe(FinetuneRecipe, find_recipe("generation", FINETUNING), ["data.folder=x", override])
    shipped = {load.stem for load in FINETUNING.glob("*.yaml") if "task: generation" in load.read_text("utf-8")}
    assert {cell for cell in cells if "=" not in cell} == shipped
    known = {name for verb in ("generate", "evaluate") for parameter in VERBS[verb].params for name in parameter.opts}
    assert set(re.findall(r"`(--[\w-]+)", read(page))) <= known


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_what_pages_name()
    command = command_line(monkeypatch, capfd)
    train, *others = blocks("docs/generation.md", "bash")[0].splitlines()
    tiny = "generation.image_size=16 generation.channels=[16,16] generation.attention_head_dim=16"
    tiny += " generation.sampling_steps=2"
    for line in (train.replace("training.epochs=2", f"training.epochs=1 {tiny}"), *others):
        result = command(*shlex.split(line)[1:])
        assert result.code == 0, result.err
    assert Image.open("grid.png").format == "PNG"
    report = read_json("pictures.json")["generation"]
    assert (report["pictures"], report["judge"]) == (8, "runs/pictures")
    assert {"match_score", "FID", "KID", "first", "gain"} <= report.keys()
    assert Path("results/mydata.val/pictures.json").is_file()
