"""Models by languages: numbers of one language are those of evaluate, and rows say what models were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccmb.tasks.retrieval.columns import columns
from ccmb.tasks.transfer.matrix import matrix
from ccmb.tasks.transfer.trained_on import TrainedOn, trained_on
from tests.helpers.downstream_samples import WRITERS
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

COUNT = 8


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Chinese in one file, two other languages in another; German has texts of five images alone."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for row, image in enumerate(tiny_images(COUNT)):
        image.save(folder / "images" / f"{row}.png")
    zh = [{"image": f"{row}.png", "zh": [TEXTS[row], TEXTS[row] + "一"], "split": "test"} for row in range(COUNT)]
    other = [{"image": f"{row}.png", "mt": [TEXTS[row] + "红"], "split": "test"} for row in range(COUNT)]
    for row in range(5):
        other[row]["de"] = [TEXTS[row] + "船"]
    for name, lines in (("zh", zh), ("other", other)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return folder / "zh.jsonl+other.jsonl"


def run_folder(folder: Path, languages: dict[str, list[str]], **data: object) -> Path:
    folder.mkdir(parents=True)
    save_r2d2(folder / "model")
    recipe = {"data": {"languages": languages, **data}, "model": {"init_from": None}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    return folder


def recalls(report: dict[str, Any], way: str, stage: str) -> dict[str, float]:
    of_stage = report[stage][way]
    return {name: one["value"] for name, one in of_stage.items()}


def test_languages_of_one_evaluation_are_evaluated_alone_too(pairs: Path, tmp_path: Path, command: Command) -> None:
    model = save_r2d2(tmp_path / "model")
    base = ("evaluate", "--model", model, "--data", pairs, "--split", "test", "--rerank-k", 4)
    done = command(*base, "--languages", "zh,de=de,en=mt", "--json", tmp_path / "all.json")
    assert done.code == 0, done.err
    languages = json.loads((tmp_path / "all.json").read_text("utf-8"))["retrieval"]["languages"]
    assert {name: (one["images"], one["texts"]) for name, one in languages.items()} == {
        "zh": (8, 16), "de": (5, 5), "en": (8, 8),
    }  # fmt: skip
    assert "mean over languages" in done.out
    for name, field in (("zh", "zh"), ("de", "de")):
        assert command(*base, "--text-field", field, "--json", tmp_path / "one.json").code == 0
        alone = json.loads((tmp_path / "one.json").read_text("utf-8"))["retrieval"]
        for way in ("text_to_image", "image_to_text"):
            for stage in ("pre_ranking", "ranking"):
                assert recalls(languages[name], way, stage) == pytest.approx(alone[way][stage], abs=0.01)
        assert languages[name]["ranking"]["mean_recall"]["value"] == pytest.approx(
            alone["mean_recall"]["ranking"], abs=0.02
        )
        assert languages[name]["gain_R@1"] == alone["gain_R@1"]
    refused = command(*base, "--languages", "zh", "--text-field", "zh")
    assert (refused.code, "--text-field" in refused.err) == (2, True)
    missing = command(*base, "--languages", "zh,fr")
    assert (missing.code, "split test has no text of fr in fr, texts@fr" in missing.err) == (1, True)


def test_a_matrix_keeps_what_was_measured(
    pairs: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    zh = run_folder(tmp_path / "zh", {"zh": ["zh"]})
    few = run_folder(tmp_path / "few", {"de": ["de"]}, max_images=3)
    recipe = json.loads((few / "recipe.yaml").read_text("utf-8"))
    recipe["model"]["init_from"] = str(zh)
    (few / "recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    clip = save_two_towers(tmp_path / "clip", "clip")
    out = tmp_path / "out"
    base = ("transfer", "--data", pairs, "--languages", "zh,de", "--translated", "de>zh=mt", "--out", out, "--json")
    done = command(*base, zh, few, f"peer={clip}", "--trained-on", "peer=en", "--rerank-k", 4)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    rows = {entry["name"]: entry for entry in report["models"]}
    assert list(report["columns"]) == ["zh", "de", "de>zh"]
    assert {name: (row["trained_on"], row["images"], row["after"]) for name, row in rows.items()} == {
        "zh": (["zh"], None, []), "few": (["de"], 3, ["zh"]), "peer": (["en"], None, []),
    }  # fmt: skip
    assert rows["peer"]["metrics"]["zh"]["ranking"] is None
    assert rows["zh"]["metrics"]["zh"]["ranking"] is not None
    assert rows["zh"]["metrics"]["zh"] == rows["few"]["metrics"]["zh"]  # equal weights
    assert rows["zh"]["share_of_own"]["zh"] == 1.0
    page, table = ((out / f"transfer.{form}").read_text("utf-8") for form in ("html", "md"))
    assert "少样本" in page
    assert "zh → de" in page
    assert "| few | zh, then de (3 images) |" in table

    monkeypatch.setattr("ccmb.tasks.retrieval.languages.encode_images", None)  # nothing is encoded again
    again = command(*base, zh, few, f"peer={clip}", "--trained-on", "peer=en", "--rerank-k", 4)
    assert json.loads(again.out) == report
    monkeypatch.undo()
    alone = command(*base, "--no-rank", zh)
    assert json.loads(alone.out)["models"][0]["metrics"]["de"]["ranking"] is None


def test_published_sets_have_languages_too(tmp_path: Path, command: Command) -> None:
    model, folder = save_two_towers(tmp_path / "clip", "clip"), WRITERS["xflickrco"](tmp_path / "set")
    base = ("transfer", model, "--data", f"xflickrco={folder}", "--out", tmp_path / "out", "--json")
    done = command(*base, "--languages", "zh,de", "--translated", "zh>en=zh>en")
    assert done.code == 0, done.err
    columns = json.loads(done.out)["columns"]
    assert {name: (one["images"], one["texts"]) for name, one in columns.items()} == {
        "zh": (2, 2), "de": (2, 2), "zh>en": (2, 2),
    }  # fmt: skip
    absent = command(*base, "--languages", "zh,fr=fr")
    assert (absent.code, "has no 'fr'; it has: zh, de, zh>en" in absent.err) == (2, True)


def test_a_benchmark_files_each_language_as_a_set(pairs: Path, tmp_path: Path, command: Command) -> None:
    model, out = save_two_towers(tmp_path / "clip", "clip"), tmp_path / "results"
    base = ("benchmark", "--model", model, "--data", f"own={pairs}", "--out", out)
    done = command(*base, "--languages", "zh,de")
    assert done.code == 0, done.err
    results = {path.parent.name: json.loads(path.read_text("utf-8")) for path in out.glob("own*/*.json")}
    assert {name: (one["data"]["language"], one["data"]["texts"]) for name, one in results.items()} == {
        "own.zh.test": ("zh", 16), "own.de.test": ("de", 5),
    }  # fmt: skip
    assert command("leaderboard", out, "--out", tmp_path / "board").code == 0
    assert "own.de" in (tmp_path / "board" / "leaderboard.md").read_text("utf-8")
    refused = command(*base, "--languages", "zh", "--text-field", "zh")
    assert (refused.code, "--text-field" in refused.err) == (2, True)


def test_mistakes_are_named(pairs: Path, tmp_path: Path, command: Command) -> None:
    model = save_two_towers(tmp_path / "clip", "clip")
    base = ("transfer", model, "--data", pairs, "--languages", "zh", "--out", tmp_path / "out")
    cases = {
        ("--translated", "zh"): "write LANGUAGE>LANGUAGE=FIELD",
        ("--translated", "en>zh=mt"): "en is not among the languages that are tested",
        ("--trained-on", "clip"): "write LABEL=LANGUAGES",
        ("--trained-on", "other=zh"): "--trained-on other: no model is called so",
        ("--no-rank", "--rerank-k", "3"): "--rerank-k is of a second stage",
        (model,): "two models are called clip",
    }
    for options, words in cases.items():
        outcome = command(*base, *options)
        assert (outcome.code, words in outcome.err) == (2, True), outcome.err


def test_columns_are_languages_and_translations() -> None:
    read = columns("zh=a+b,en", ["en>zh=mt"])
    assert [(column.name, column.fields) for column in read] == [
        ("zh", ("a", "b")), ("en", ("en", "texts@en")), ("en>zh", ("mt",)),
    ]  # fmt: skip


def test_a_run_says_what_it_was_trained_on(tmp_path: Path) -> None:
    assert trained_on(str(tmp_path)) == TrainedOn()
    (tmp_path / "recipe.yaml").write_text("a: [", "utf-8")
    assert trained_on(str(tmp_path), "ZH,en") == TrainedOn(("zh", "en"))


def metrics(value: float) -> dict[str, Any]:
    stage = {"text_to_image": {"R@10": {"value": value}}}
    return {"pre_ranking": stage, "ranking": None, "gain_R@1": None}


def test_shares_and_ranks_by_hand() -> None:
    asked = columns("zh,en,de", ["en>zh=mt"])
    one = {"zh": metrics(50.0), "en": metrics(40.0), "de": metrics(20.0), "en>zh": metrics(99.0)}
    two = {"zh": metrics(40.0), "en": metrics(40.0), "de": metrics(30.0), "en>zh": metrics(99.0)}
    first, second = matrix(asked, [("one", TrainedOn(("zh",)), one), ("two", TrainedOn(("zh", "en")), two)])
    assert first["share_of_own"] == {"zh": 1.0, "en": 0.8, "de": 0.4}
    assert first["share_of_own_elsewhere"] == 0.6
    assert second["share_of_own_elsewhere"] == 0.75
    assert (first["mean_rank"], second["mean_rank"]) == (1.5, 1.5)  # 1, 1.5, 2 and 2, 1.5, 1
    nobody_knows = matrix(asked, [("one", TrainedOn(), one)])[0]
    assert (nobody_knows["share_of_own"], nobody_knows["share_of_own_elsewhere"]) == ({}, None)
