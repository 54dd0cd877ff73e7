"""The pages on the corpus: their first commands run as they stand, their tables are those of the arithmetic."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from ccmb.core.config.recipe_files import load_recipe
from ccmb.corpus.assembly.recipe import ZeroRecipe, find_corpus_recipe
from tests.helpers.pages import CORPUS_PAGES, ROOT, blocks, read
from tests.helpers.runs import command_line

sys.path.insert(0, str(ROOT / "benchmarks"))

import corpus_cost

SCALE_PAGES = ("docs/corpus-at-scale.md", "docs/corpus-at-scale.zh.md")


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = command_line(monkeypatch, capfd)
    for line in blocks(CORPUS_PAGES[0], "bash")[0].splitlines():
        result = command(*shlex.split(line)[1:])
        assert result.code == 0, result.err
    assert command("corpus", "verify", "corpus-half").out.endswith("no problems\n")


@pytest.mark.parametrize("page", CORPUS_PAGES)
def test_the_recipe_of_the_page_is_one(page: str) -> None:
    words = re.findall(
        r"[\w.]+=[\w.]+", "".join(blocks(page, "bash")) + " ".join(re.findall(r"`([^`\n]+)`", read(page)))
    )
    overrides = [word for word in words if "." in word.partition("=")[0]]
    assert len(overrides) >= 4
    load_recipe(ZeroRecipe, find_corpus_recipe("zero"), overrides)


@pytest.mark.parametrize("page", SCALE_PAGES)
def test_the_arithmetic_is_what_the_script_prints(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    corpus_cost.main([])
    assert capsys.readouterr().out in read(page)
    [line] = blocks(page, "bash")
    corpus_cost.main(shlex.split(line)[2:])
    assert "| machines | 32 |" in capsys.readouterr().out


def test_measured_inputs_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "corpus-cpu.json").read_text())
    measured = {claim["name"]: claim["value"] for claim in results["claims"]}
    assert corpus_cost.INPUTS["log_rows"].value == pytest.approx(
        measured["rows per second, log of 1,000,000"] / 2, rel=0.01
    )
    assert corpus_cost.INPUTS["text_rows"].value == pytest.approx(
        measured["captions per second, clicks apart"] / 2, rel=0.02
    )


def test_more_machines_help_what_they_can() -> None:
    values = {name: given.value for name, given in corpus_cost.INPUTS.items()}
    one, two = corpus_cost.stages(values), corpus_cost.stages(values | {"machines": 32.0})
    assert [other.hours / first.hours for first, other in zip(one, two, strict=True)] == [0.5, 0.5, 1, 1]
    slow = corpus_cost.stages(values | {"network": 1e9})[2]
    assert slow.hours == pytest.approx(312.5e6 * 150e3 * 8 / 0.5e9 / 3600)
