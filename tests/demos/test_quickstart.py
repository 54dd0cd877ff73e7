"""The quickstart: parts in order, none of them twice, other settings refused, and a report in the agreed shape."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json, read_json_lines, write_json
from ccmb.core.journal import Journal, first_difference
from ccmb.demos import quickstart
from ccmb.demos.quickstart import Quickstart, Size, closing_words, run_quickstart, settings_as_now
from ccmb.demos.quickstart_generative import Generative
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.old_names import by_old_names

TINY = Size("quickstart", 48, gallery=12, validation=4, depth=4, images_per_kind=1, images_per_colour=1)
TOWER = "hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2"
OVERRIDES = [
    f"model.vision={{model_type: stem_vision, image_size: 32, patch_size: 16, stem_channels: [4, 4, 8], {TOWER}}}",
    f"model.text={{model_type: bert, {TOWER}}}",
    "model.embed_dim=16",
    "model.cross_layers=1",
    "objectives.tgd.queue_size=64",
    "objectives.fgd=off",
    "training.steps=4",
    "training.batch_size=16",
    "training.log_every=1",
    "training.precision=fp32",
    "data.num_workers=0",
]


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the search index; what it was asked to index is listed."""
    calls: list[dict[str, Any]] = []

    def build_index(images: Any, out: Path, model: Any) -> None:
        out.mkdir()
        calls.append({"pictures": images, "model": model.source})

    monkeypatch.setitem(sys.modules, "ccmb.search.indexing.indexer", SimpleNamespace(build_index=build_index))  # type: ignore[arg-type]
    monkeypatch.setattr(quickstart, "QUICK", TINY)
    return calls


def test_everything_is_done_once_and_reported_in_the_agreed_shape(
    tmp_path: Path, indexed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "quick start"
    report = run_quickstart(out, overrides=OVERRIDES)
    assert report == read_json(out / "report.json")
    calibration, config = read_json(out / "calibration.json"), read_json(out / "run" / "model" / "config.json")
    assert config["match_temperature"] == (calibration["match_temperature"] or 1.0)
    retrieval = report["retrieval"]
    assert (retrieval["gallery"], retrieval["texts"], retrieval["depth"]) == (12, 12, 4)
    for direction in ("text_to_image", "image_to_text"):
        for stage in ("pre_ranking", "ranking"):
            assert set(retrieval[direction][stage]) == {"R@1", "R@5", "R@10"}
    assert report["objectives"] == ["GCPR", "FGR", "MLM", "TgD"]
    assert report["objectives_off"] == ["FgD"]
    assert list(report["seconds"]) == ["draw", "train", "evaluate", "calibrate", "classify", "index", "report", "total"]
    assert report["minimal_pairs"]["pairs"] == 12
    drawn = report["classification"]["drawn"]
    assert report["classification"]["top1"] == drawn["colour"]["trained"]["top1"]
    assert [drawn[item]["untrained"]["pictures"] for item in ("kind", "colour")] == [26, 8]
    assert report["model"]["steps"] == 4
    assert "torch" in report["libraries"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{retrieval['mean_recall']['ranking']:.1f}" in page
    assert "Switched off: <strong>FgD</strong>" in page
    [call] = indexed
    assert call == {"pictures": [out / "gallery"], "model": str(out / "run" / "model")}
    held_out = [line["image"] for _, line in read_json_lines(out / "corpus" / "pairs.jsonl") if line["split"] == "test"]
    assert sorted(path.name for path in (out / "gallery").iterdir()) == sorted(held_out)
    assert len(held_out) == 12
    assert f"--index '{out}/index'" in closing_words(out, report)

    def never(*_: Any) -> None:
        raise AssertionError("a finished part was done again")

    for part in ("draw", "train", "evaluate", "calibrate", "classify", "index", "report"):
        monkeypatch.setattr(Quickstart, part, never)
    before = (out / "report.json").read_bytes()
    assert run_quickstart(out, overrides=OVERRIDES) == report
    assert (out / "report.json").read_bytes() == before
    with pytest.raises(CcmbError, match=r"another training\.steps \(4, now 5\)"):
        run_quickstart(out, overrides=[*OVERRIDES, "training.steps=5"])
    with pytest.raises(UsageError, match="unknown key"):
        run_quickstart(out, overrides=["objectives.frg=off"])


def test_in_full_it_describes_and_paints_too(
    tmp_path: Path, indexed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    few = ("training.steps=2", "training.batch_size=8", "data.num_workers=0")
    paint = (
        "generation.image_size=16",
        "generation.channels=[16,32]",
        "generation.attention_head_dim=8",
        "generation.sampling_steps=2",
    )
    generative = Generative(few, (*few, *paint), close_ups=12, images=8, best_of=2)
    monkeypatch.setattr(quickstart, "FULL", replace(TINY, generative=generative))
    report = run_quickstart(tmp_path, full=True, overrides=OVERRIDES)
    assert list(report["seconds"])[5:8] == ["index", "caption", "paint"]
    assert report["captioning"]["pictures"] == 8
    assert report["generation"]["painting"]["best_of"] == 2
    assert {"kind_and_colour", "match_score"} <= report["generation"]["gain"].keys()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    captions, painted = read_json(tmp_path / "captions.json"), read_json(tmp_path / "painted.json")
    assert len(captions["shown"]) == len(painted["shown"]) == 6
    assert all(f">{item['text']}</span></h3>" in page for item in painted["shown"])
    assert page.count("<h2>") == 12
    commands = [command["command"] for command in report["next"]]
    assert [command.split()[1] for command in commands[-2:]] == ["caption", "generate"]


def test_a_stopped_part_is_repeated_and_those_before_it_are_not(tmp_path: Path) -> None:
    path, done = tmp_path / "quickstart.json", []

    def run(fail: bool) -> None:
        with Journal(path, {"size": "a"}, "quickstart") as journal:
            for name in ("draw", "train", "report"):

                def work(name: str = name) -> None:
                    if fail and name == "train":
                        raise KeyboardInterrupt
                    done.append(name)

                journal.part(name, work, [])

    with pytest.raises(KeyboardInterrupt):
        run(fail=True)
    assert (done, read_json(path)["done"]) == (["draw"], ["draw"])
    run(fail=False)
    assert done == ["draw", "train", "report"]


def test_a_part_whose_output_was_removed_is_done_again(tmp_path: Path) -> None:
    output, done = tmp_path / "model", []

    def work() -> None:
        done.append(1)
        output.touch()

    for _ in range(2):
        with Journal(tmp_path / "quickstart.json", {}, "quickstart") as journal:
            journal.part("train", work, [output])
    assert len(done) == 1
    output.unlink()
    with Journal(tmp_path / "quickstart.json", {}, "quickstart") as journal:
        journal.part("train", work, [output])
    assert len(done) == 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("ccmb.core.journal.time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_seconds_add_up_over_a_stop_and_finished_parts_add_nothing(tmp_path: Path, clock: SimpleNamespace) -> None:
    path = tmp_path / "quickstart.json"

    def work(seconds: float, fails: bool = False) -> None:
        clock.seconds += seconds
        if fails:
            raise CcmbError("stopped")

    with Journal(path, {}, "quickstart") as journal:
        journal.part("draw", lambda: work(5), [])
        with pytest.raises(CcmbError):
            journal.part("train", lambda: work(30, fails=True), [])
    with Journal(path, {}, "quickstart") as journal:
        clock.seconds += 3
        journal.part("draw", lambda: work(1000), [])
        journal.part("train", lambda: work(12), [])
        clock.seconds += 1
        assert journal.seconds() == {"draw": 5, "train": 42, "total": 48}
    with Journal(path, {}, "quickstart") as journal:
        clock.seconds += 60
        journal.part("draw", lambda: work(1000), [])
    assert read_json(path)["seconds"] == {"draw": 5, "train": 42, "total": 48}


def test_the_file_is_whole_while_a_part_runs_so_that_a_kill_loses_little(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    path = tmp_path / "quickstart.json"
    saved = threading.Event()
    monkeypatch.setattr("ccmb.core.journal.SECONDS_BETWEEN_SAVES", 0.01)

    def write_and_tell(path: Path, value: Any) -> None:
        write_json(path, value)
        if value["seconds"].get("train") == 7:
            saved.set()

    monkeypatch.setattr("ccmb.core.journal.write_json", write_and_tell)

    def work() -> None:
        clock.seconds += 7
        assert saved.wait(10)
        assert json.loads(path.read_text(encoding="utf-8"))["done"] == []

    with Journal(path, {}, "quickstart") as journal:
        journal.part("train", work, [])


def test_a_folder_of_another_size_or_a_foreign_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "quickstart.json"
    with Journal(path, {"size": "quickstart"}, "quickstart") as journal:
        journal.part("draw", lambda: None, [])
    with pytest.raises(CcmbError, match=r"another size \('quickstart', now 'quickstart-full'\)"):
        Journal(path, {"size": "quickstart-full"}, "quickstart")
    write_json(path, ["something else"])
    with pytest.raises(CcmbError, match="not the file of a quickstart"):
        Journal(path, {"size": "quickstart"}, "quickstart")


def test_the_first_difference_is_named_by_its_dotted_key() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert first_difference(before, {"a": {"b": 1, "c": [1, 2]}, "d": None}) is None
    assert first_difference(before, {"a": {"b": 1, "c": [1, 3]}, "d": None}) == "a.c ([1, 2], now [1, 3])"
    assert first_difference(before, {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": 2}) == "e (None, now 2)"


def test_a_quickstart_that_an_older_version_began_goes_on_and_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(PretrainRecipe, find_recipe("quickstart"))
    settings = {"size": "quickstart", **recipe.model_dump(mode="json", exclude={"data": {"folder"}})}
    path = tmp_path / "quickstart.json"
    with Journal(path, by_old_names(PretrainRecipe, settings), "quickstart") as journal:
        journal.part("draw", lambda: None, [])
    assert "batch" in json.loads(path.read_text(encoding="utf-8"))["settings"]["training"]
    assert Journal(path, settings, "quickstart", settings_as_now).done == ["draw"]
    settings["training"]["batch_size"] += 1
    with pytest.raises(CcmbError, match=r"another training\.batch_size \(64, now 65\)"):
        Journal(path, settings, "quickstart", settings_as_now)
