"""Photographs that one data set trains on and another tests on: counted, recorded with the model, marked in results.

File names are made to the pattern of Flickr8k (number and ten hexadecimal digits) and of Flickr30k (the number alone).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ccmb.benchmark.leaderboard.html import render_leaderboard
from ccmb.benchmark.leaderboard.markdown import as_csv, markdown
from ccmb.benchmark.leaderboard.readme_table import readme_table
from ccmb.benchmark.leaderboard.rows import leaderboard, read_results
from ccmb.benchmark.results.result import read_result
from ccmb.core.files import read_json
from ccmb.data.seen_images import FILE, read_seen
from ccmb.datasets.verify import checked_text, verify_dataset
from ccmb.tasks.common.seen import seen_by
from ccmb.tasks.finetuning.interpolate import mix
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from tests.helpers.old_names import rewrite_by_old_names
from tests.helpers.runs import command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.tuning import arguments, save_pairs, save_start

FIRST = 1000268201


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def flickr(index: int, secret: bool) -> str:
    return f"{FIRST + 13 * index}_{0x693B08CB0E + index:010x}.jpg" if secret else f"{FIRST + 13 * index}.jpg"


def save_flickr(folder: Path, splits: dict[str, range], secret: bool) -> Path:
    """Own pairs whose images are the photographs of these places, as Flickr8k or as Flickr30k calls them."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for split, places in splits.items():
        for index, image in zip(places, tiny_images(len(places)), strict=True):
            image.save(folder / "images" / flickr(index, secret), "JPEG")
            texts = [f"{TEXTS[index % 8]}，{index}"]
            lines.append({"image": flickr(index, secret), "captions": texts, "texts": texts, "split": split})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def flickr8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": range(8), "val": range(8, 14), "test": range(14, 18)}
    return save_flickr(tmp_path_factory.mktemp("flickr8k") / "flickr8k-cn", splits, secret=True)


@pytest.fixture(scope="module")
def flickr30k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its test has three images of the other's train and one of its val; its train all of the other's test."""
    places = {"train": range(14, 24), "test": range(5, 9)}
    return save_flickr(tmp_path_factory.mktemp("flickr30k") / "flickr30k", places, secret=False)


@pytest.fixture(scope="module")
def runs(flickr8k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`start`; `tuned` on Flickr8k from it; and `again`, tuned from that on other data."""
    from ccmb.tasks.finetuning.run import finetune
    from tests.helpers.tuning import recipe_of

    folder = tmp_path_factory.mktemp("runs")
    save_start(folder / "start")
    tiny = {"training__steps": 1, "validation__every": 0}
    finetune(recipe_of(folder / "start", flickr8k, **tiny), folder / "tuned")
    finetune(recipe_of(folder / "tuned", save_pairs(folder / "other"), **tiny), folder / "again")
    return folder


def test_a_model_folder_says_what_was_read_by_it_and_by_the_runs_before(runs: Path, tmp_path: Path) -> None:
    tuned, again = read_seen(runs / "tuned" / "model"), read_seen(runs / "again" / "model")
    assert tuned is not None
    assert again is not None
    assert [one.name for one in tuned.read] == ["flickr8k-cn train", str(runs / "start")]
    assert [one.name for one in again.read] == ["other train", "flickr8k-cn train", str(runs / "start")]
    assert tuned.photos == again.photos == {("flickr", FIRST + 13 * index) for index in range(8)}
    shutil.copytree(runs / "again" / "model", tmp_path / "copied")  # it goes with the weights
    assert seen_by(tmp_path / "copied") == again
    mix(runs / "start", runs / "tuned", 0.5, tmp_path / "mixed")
    mixed = seen_by(tmp_path / "mixed")
    assert mixed is not None
    assert mixed.photos == tuned.photos


def test_a_run_from_before_the_record_is_read_from_its_recipe(runs: Path, tmp_path: Path) -> None:
    known = seen_by(runs / "again")
    for name in ("tuned", "again"):
        shutil.copytree(runs / name, tmp_path / name)
        for path in (tmp_path / name).rglob(FILE):
            path.unlink()
    recipe = tmp_path / "again" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(runs / "tuned"), str(tmp_path / "tuned")))
    assert seen_by(tmp_path / "again" / "model") == known
    for name in ("tuned", "again"):
        rewrite_by_old_names(FinetuneRecipe, tmp_path / name / "recipe.yaml")
    assert seen_by(tmp_path / "again" / "model") == known
    shutil.rmtree(tmp_path / "tuned")
    assert seen_by(tmp_path / "start") is None


def test_evaluation_says_how_many_test_images_a_model_saw(runs: Path, flickr30k: Path, tmp_path: Path, command) -> None:
    for model, count in (("tuned", 3), ("again", 3)):
        report = tmp_path / "report.json"
        done = command("evaluate", "--model", runs / model, "--data", flickr30k / "pairs.jsonl", "--json", report)
        assert done.code == 0
        assert "saw 3 test images" in done.out
        seen = read_json(report)["seen"]
        assert (seen["images"], seen["mark"]) == (count, "saw 3 test images")
        assert "flickr8k-cn train" in seen["read"]
    done = command("evaluate", "--model", runs / "start", "--data", flickr30k / "pairs.jsonl", "--json", report)
    assert (read_json(report)["seen"], "test images" in done.out) == (
        None,
        False,
    )  # nothing says what it was trained on


def test_results_and_leaderboards_show_the_mark(runs: Path, flickr8k: Path, flickr30k: Path, tmp_path: Path, command):
    data = ["--data", f"flickr30k-cn={flickr30k / 'pairs.jsonl'}", "--data", f"flickr8k-cn={flickr8k / 'pairs.jsonl'}"]
    out = tmp_path / "results"
    done = command("benchmark", "--model", runs / "again", *data, "--out", out, "--setting", "zero-shot")
    assert done.code == 0
    seen = {path.parent.name: read_result(path).seen for path in out.glob("*/*.json")}
    marks = {name: None if seen_set is None else (seen_set.images, seen_set.mark) for name, seen_set in seen.items()}
    assert marks == {"flickr30k-cn.test": (3, "saw 3 test images"), "flickr8k-cn.test": (0, "")}
    rows = leaderboard(read_results([out]))
    assert {row.set: row.seen for row in rows if row.origin == "ours"} == {
        "flickr30k-cn": "saw 3 test images", "flickr8k-cn": "",
    }  # fmt: skip
    pages = (markdown(rows), as_csv(rows), render_leaderboard(rows), readme_table(rows, "en"), readme_table(rows, "zh"))
    for text in pages:
        assert text.count("saw 3 test images") >= 1


def test_finetuning_warns_before_it_trains_and_records_it(
    runs: Path, flickr8k: Path, flickr30k: Path, tmp_path: Path, command
) -> None:
    """Trained on Flickr30k's train, which holds all of Flickr8k's test; started from a run on Flickr8k's train."""
    also = ["--also", f"flickr8k-cn={flickr8k / 'pairs.jsonl'}", "--also-split", "test"]
    given = arguments(flickr30k, training__steps=1, validation__every=0, validation__split="test")
    done = command("finetune", "retrieval", *given, *also, "--model", runs / "tuned", "--out", tmp_path / "run")
    assert done.code == 0
    assert "flickr8k-cn, split test: 4 of its 4 images are photographs that are trained on" in done.err
    assert "flickr30k, split test: 3 of its 4 images" in done.err  # by the run that it started from
    assert done.err.index("are trained on") < done.err.index("train:") if "train:" in done.err else True
    sets = {one["name"]: one["seen"] for one in read_json(tmp_path / "run" / "finetune.json")["sets"]}
    assert {name: (seen["before"]["images"], seen["after"]["images"]) for name, seen in sets.items()} == {
        "flickr30k": (3, 3), "flickr8k-cn": (0, 4),
    }  # fmt: skip
    assert sets["flickr8k-cn"]["after"]["mark"] == "saw 4 test images"


def test_verify_counts_photographs_of_another_set(flickr8k: Path, flickr30k: Path, command) -> None:
    checked = verify_dataset("flickr8k-cn", flickr8k, against=[f"flickr30k={flickr30k / 'pairs.jsonl'}"])
    assert checked.shared == {
        "flickr30k": {"train": {"test": 3}, "val": {"test": 1}, "test": {"train": 4}},
    }  # fmt: skip
    [finding] = [finding for finding in checked.findings if finding.what == "photographs of another set"]
    assert (finding.count, finding.level) == (8, "warning")
    assert "flickr8k-cn test and flickr30k: 4 images are shared (4 of its train)" in checked_text(checked)
    outcome = command("data", "verify", "flickr8k-cn", flickr8k)
    assert (
        "18 images are photographs of Flickr by their names, which Flickr8k(-CN), Flickr30k(-CN, -CNA, -200), "
        "Multi30k, xFlickr&CO have too" in outcome.out
    )
    refused = command("data", "verify", "flickr8k-cn", flickr8k, "--against", "nothing")
    assert (refused.code, "--against nothing: give NAME=FOLDER" in refused.err) == (2, True)


def test_verify_finds_one_photograph_under_two_names_in_two_splits(tmp_path: Path) -> None:
    folder = save_flickr(tmp_path / "set", {"train": range(4), "val": range(4, 6)}, secret=True)
    with open(folder / "pairs.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"image": flickr(2, False), "captions": ["同一张"], "split": "val"}) + "\n")
    tiny_images(9)[8].save(folder / "images" / flickr(2, False), "JPEG")  # of other bytes, such as another size
    [finding] = [
        finding for finding in verify_dataset("flickr8k-cn", folder).findings if finding.what == "images in two splits"
    ]
    assert finding.examples[-1].endswith(f"val: {flickr(2, False)} is the photograph {flickr(2, True)} of train")


def test_shards_say_which_photographs_they_hold(flickr8k: Path, tmp_path: Path, command) -> None:
    done = command("data", "convert", flickr8k / "pairs.jsonl", tmp_path / "shards", "--images", flickr8k / "images")
    assert done.code == 0
    seen = read_seen(tmp_path / "shards")
    assert seen is not None
    assert [(one.name, one.images, one.photographs) for one in seen.read] == [("flickr8k-cn train", 8, 8)]
