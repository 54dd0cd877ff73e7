"""`ccmb classify` and `ccmb evaluate --classes` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccmb.scenes.classification import write_class_folders
from ccmb.scenes.scene import KINDS
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for path, image in zip(paths, tiny_images(2), strict=True):
        image.save(path)
    return paths


def test_classify_names_the_best_classes_of_each_image(command: Command, model: Path, photos: list[Path]) -> None:
    arguments = ["classify", *photos, "--model", model, "--classes", "猫/猫咪,足球,苹果", "--top", 2]
    code, out, err = command(*arguments, "--json")
    assert (code, err) == (0, "")
    results = json.loads(out)
    assert [result["picture"] for result in results] == [str(path) for path in photos]
    assert all([guess["score"] for guess in result["classes"]] == [None, None] for result in results)
    lines = command(*arguments).out.splitlines()
    for line, result in zip(lines, results, strict=True):
        named = [f"{guess['name']} {guess['cosine']:.3f}" for guess in result["classes"]]
        assert line == "  ".join([result["picture"], *named])
    ranked = command(*arguments, "--depth", 3, "--templates", "左边是{}").out.splitlines()
    assert command(*arguments, "--rerank-k", 3, "--templates", "左边是{}").out.splitlines() == ranked
    assert all(line.count("(cosine ") == 2 for line in ranked)


def test_classify_lists_what_it_cannot_read_and_says_what_is_wrong(
    command: Command, model: Path, photos: list[Path], tmp_path: Path
) -> None:
    gone = tmp_path / "gone.png"
    code, out, err = command("classify", gone, photos[0], "--model", model, "--classes", "cifar10")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == f"1 images could not be read:\n  {gone}: no such image\n"
    none = tmp_path / "none"
    code, _, err = command("classify", photos[0], "--model", none, "--classes", "imagnet")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("ccmb: 'imagnet': no such class list (did you mean 'imagenet'?)")
    code, _, err = command("classify", photos[0], "--model", none, "--classes", "猫,狗", "--templates", "plane")
    assert (code, err.startswith("ccmb: 'plane': no such templates")) == (2, True)


def test_evaluate_measures_classification_on_folders(command: Command, model: Path, tmp_path: Path) -> None:
    folder, report_file = tmp_path / "kinds", tmp_path / "report.json"
    write_class_folders(folder, "kind", per_class=1, size=32)
    classes = ["--classes", folder / "classes.json", "--templates", "plain"]
    evaluate = ["evaluate", "--model", model, "--data", folder, *classes]
    code, out, err = command(*evaluate, "--json", report_file)
    assert (code, err) == (0, "")
    report = json.loads(report_file.read_text(encoding="utf-8"))
    outcome = report["classification"]
    assert set(outcome) == {
        "pictures", "classes", "classes_with_pictures", "top1", "top5", "mean_per_class", "interval",
        "class_list", "templates",
    }  # fmt: skip
    assert out.splitlines()[0] == f"{len(KINDS)} images, {len(KINDS)} classes"
    assert f"{outcome['top1']:.1f} (" in out.splitlines()[2]

    code, out, _ = command(*evaluate, "--depth", 3, "--ranking-rule", "log_odds", "--json", report_file)
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert (code, report["ranking_rule"], report["classification"]["ranking"]["depth"]) == (0, "log_odds", 3)
    assert out.splitlines()[3].startswith("ranking ")


def test_evaluate_says_what_does_not_go_together(command: Command, model: Path, tmp_path: Path) -> None:
    code, _, err = command("evaluate", "--model", model, "--data", tmp_path)
    assert (code, err) == (
        2,
        f"ccmb: {tmp_path}: a folder; give a pairs.jsonl file, or say with --classes what its folders show\n",
    )
    classes = ["--classes", "cifar10"]
    for pairs_arguments in (["--text-field", "texts"], ["--cascade", 3], ["--precision", "bf16"]):
        code, _, err = command("evaluate", "--model", model, "--data", tmp_path, *classes, *pairs_arguments)
        assert (code, "and does nothing with --classes; leave it out" in err) == (2, True)
    code, _, err = command("evaluate", "--model", model, "--data", tmp_path, *classes)
    assert (code, err) == (1, f"ccmb: {tmp_path}: no images; there must be one folder of images a class\n")
