"""`ccmb corpus VERB`: the demo with its planted truth, and what the verbs say."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from ccmb.cli.corpus import common
from ccmb.core.config.recipe_files import load_recipe
from ccmb.core.files import read_json_lines
from ccmb.corpus.assembly.recipe import ZeroRecipe, find_corpus_recipe
from ccmb.demos.corpus_comparison import compare_corpora, comparison_section, draw_raw_pairs
from ccmb.demos.corpus_demo import run_demo
from tests.helpers.runs import command_line

IMAGES = 200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, IMAGES, compare=False)
    return out


def test_what_was_planted_is_removed_and_what_is_good_is_kept(demo: Path) -> None:
    report = json.loads((demo / "report.json").read_text())
    recalls = {recall["kind"]: recall for recall in report["planted"]}
    assert all(recall["planted"] >= 10 for recall in recalls.values())
    assert recalls["wrong_pairs"]["planted"] > 150
    assert recalls["wrong_pairs"]["share"] >= 0.95
    assert recalls["spam"]["share"] >= 0.95
    assert recalls["exact_texts"]["share"] >= 0.99
    assert recalls["exact_pictures"]["share"] >= 0.99
    assert recalls["near_texts"]["share"] >= 0.90
    assert recalls["near_pictures"]["share"] >= 0.90
    assert recalls["good_pairs_lost"]["share"] <= 0.10


def test_the_demo_goes_on_and_refuses_another_size(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    before = (demo / "corpus" / "manifest.json").read_bytes()
    outcome = command("corpus", "demo", "--out", demo, "--pictures", IMAGES)
    assert outcome.code == 0
    assert re.search(r"wrong pairs +\d+ +\d+ +9\d\.\d %   >= 95 %", outcome.out)
    assert (demo / "corpus" / "manifest.json").read_bytes() == before
    other = command("corpus", "demo", "--out", demo, "--pictures", IMAGES + 1)
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "holds a demo of 200 images" in other.err


def test_stats_writes_a_page_with_images(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    outcome = command("corpus", "stats", demo / "corpus", "--pictures", 5, "--json")
    assert outcome.code == 0
    metrics = json.loads(outcome.out)
    page = (demo / "corpus" / "stats.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 5
    assert page.count("<svg") == len(metrics["characters"]) + 3
    for step in metrics["funnel"]:
        assert f"<td>{step['rows']:,}</td><td>{step['kept']:,}</td>" in page
    assert sum(metrics["bounds"]["count"]) > 100
    assert not re.search(r"(src|href)=\"https?:", page)


def test_raw_pairs_are_as_many_and_unfiltered(demo: Path) -> None:
    texts = draw_raw_pairs(demo / "web", 500, random.Random(0))
    assert sum(map(len, texts.values())) == 500
    truth = parquet.read_table(demo / "web" / "truth.parquet").to_pylist()
    kinds = {(row["image_url"], row["text"]): row["kind"] for row in truth}
    texts_found = [kinds[url, text] for url, image_texts in texts.items() for text in image_texts]
    planted = [row["kind"] for row in truth if not row["dead"]]
    for kind in ("wrong", "spam"):
        assert texts_found.count(kind) / 500 == pytest.approx(planted.count(kind) / len(planted), abs=0.06)


@pytest.mark.slow
def test_both_kinds_of_pairs_are_trained_on_and_measured(demo: Path) -> None:
    report = compare_corpora(demo / "web", demo / "corpus", demo, steps=2)
    again = compare_corpora(demo / "web", demo / "corpus", demo, steps=2)
    assert again == report
    assert set(report["results"]) == {"corpus", "raw"}
    lines = {kind: read_json_lines(demo / "comparison" / kind / "pairs.jsonl") for kind in ("corpus", "raw")}
    assert {sum(len(line["texts"]) for _, line in run) for run in lines.values()} == {report["pairs"]}
    page = comparison_section(report)
    assert all(f"{run['mean_recall']:.1f}" in page for run in report["results"].values())


def test_verify_and_sample(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    outcome = command("corpus", "sample", demo / "corpus", "--share", 0.2, "--out", tmp_path / "sub", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["share"] == 0.2
    assert command("corpus", "verify", tmp_path / "sub").out.endswith("no problems\n")
    (tmp_path / "sub" / "index" / "pairs-000000.parquet").unlink()
    (tmp_path / "sub" / "shards" / "shard-000000.tar").write_bytes(b"")
    damaged = command("corpus", "verify", tmp_path / "sub")
    assert damaged.code == 1
    assert "shard-000000.tar: 0 bytes instead of" in damaged.out
    assert "index: the remaining checks were not run" in damaged.out
    assert "Traceback" not in damaged.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["build", "zero"], 2, "give --impressions, --pages or --links"),
        (["build", "zeroo", "--links", "x"], 2, "zeroo: no such recipe (did you mean 'zero'?)"),
        (["build", "zero", "shards.sample=3", "--links", "x"], 2, "sample' (did you mean 'samples_per_shard'?)"),
        (["build", "zero", "--links", "none.jsonl"], 1, "none.jsonl: no such file"),
        (["build", "zero", "--links", "x", "--test-pictures", "none"], 1, "none: no such folder or tar"),
        (["build", "zero", "--links", "x", "--test-set", "muge"], 2, "write NAME:FOLDER"),
        (["stats", "none"], 1, "no manifest.json, so no whole corpus"),
        (["verify", "none"], 1, "no manifest.json, so no whole corpus"),
        (["sample", "none", "--share", "0.1", "--out", "x"], 1, "no manifest.json, so no whole corpus"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = command_line(monkeypatch, capfd)("corpus", *words)
    assert (outcome.code, outcome.err.count("\n")) == (code, 1)
    assert message in outcome.err


def test_a_missing_library_is_one_line_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "NEEDED", ("pyarrow", "no_such_library"))
    outcome = command_line(monkeypatch, capfd)("corpus", "verify", "x")
    assert (outcome.code, outcome.err) == (1, "ccmb: ccmb corpus needs no_such_library: pip install 'ccmb[corpus]'\n")


def test_the_shipped_recipe_says_the_defaults() -> None:
    assert load_recipe(ZeroRecipe, find_corpus_recipe("zero")) == ZeroRecipe()
