"""Options that would do nothing are refused by name, whatever their value; the others are obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import save_pairs, save_start


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, pairs, labelled pairs, folders of classes, an image."""
    root = tmp_path_factory.mktemp("given")
    save_start(root / "r2d2")
    save_start(root / "prd2", cross_layers=0)
    save_model(root / "captioner", R2D2Captioner.from_r2d2(tiny_model(), tiny_processor()), tiny_processor())
    save_pairs(root / "data")
    lines = [{"image": f"val-{n}.png", "split": "val", "text": "一只红色的小船", "label": n % 2} for n in range(8)]
    (root / "data" / "labelled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index, image in enumerate(tiny_images(4)):
        folder = root / "classes" / ("猫", "狗")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.png")
        folder = root / "split-classes" / ("train", "val")[index % 2] / "猫"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.png")
    tiny_images(1)[0].save(root / "a.png")
    return root


PAIRS, LABELLED = "{}/data/pairs.jsonl", "{}/data/labelled.jsonl"
CLASSES = ("--data", "{}/classes", "--classes", "猫,狗")
R2D2, PRD2, CAPTIONER = (("--model", f"{{}}/{name}") for name in ("r2d2", "prd2", "captioner"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        # Values that are the defaults are given all the same.
        (("evaluate", *R2D2, "--data", PAIRS, "--beams", 5), "--beams"),
        (("evaluate", *R2D2, "--data", PAIRS, "--steps", 20), "--steps"),
        (("evaluate", *R2D2, "--data", PAIRS, "--seed", 0), "--seed"),
        (("evaluate", *R2D2, "--data", PAIRS, "--rerank"), "--rerank"),
        (("evaluate", *R2D2, "--data", PAIRS, "--no-rerank"), "--no-rerank"),
        (("evaluate", *R2D2, "--data", PAIRS, "--templates", "plain"), "--templates"),
        (("evaluate", *R2D2, "--data", LABELLED, "--templates", "all"), "--templates"),
        (("evaluate", *R2D2, "--data", LABELLED, "--limit-texts", 1), "--limit-texts"),
        (("evaluate", *R2D2, *CLASSES, "--split", "val"), "--split val"),
        (("evaluate", *R2D2, *CLASSES, "--precision", "fp32"), "--precision"),
        (("evaluate", *R2D2, *CLASSES, "--ranking-rule", "sum"), "--ranking-rule"),
        (("evaluate", *R2D2, *CLASSES, "--images", "{}"), "--images"),
        (("evaluate", *PRD2, "--data", PAIRS, "--depth", 4), "--rerank-k"),
        (("evaluate", *PRD2, "--data", PAIRS, "--precision", "bf16"), "--precision"),
        (("evaluate", *PRD2, "--data", PAIRS, "--cascade", 4), "--cascade"),
        (("evaluate", *PRD2, "--data", PAIRS, "--ranking-rule", "sum"), "--ranking-rule"),
        (("evaluate", *CAPTIONER, "--data", PAIRS, "--captions", "--decode", "greedy", "--beams", 3), "--beams"),
        (("evaluate", *CAPTIONER, "--data", PAIRS, "--captions", "--seed", 3), "--seed"),
        (
            ("evaluate", *CAPTIONER, "--data", PAIRS, "--captions", "--no-rerank", "--ranking-rule", "sum"),
            "--ranking-rule",
        ),
        (("caption", "{}/a.png", *CAPTIONER, "--temperature", 1.0), "--temperature"),
        (("caption", "{}/a.png", *CAPTIONER, "--top-p", 0.9), "--top-p"),
        (("caption", "{}/a.png", *CAPTIONER, "--seed", 0), "--seed"),
        (("caption", "{}/a.png", *CAPTIONER, "--decode", "sample", "--beams", 5), "--beams"),
        (("caption", "{}/a.png", *CAPTIONER, "--no-rerank", "--match-weight", 1), "--match-weight"),
        (("benchmark", *R2D2, "--data", f"mine={PAIRS}", "--steps", 20), "--steps"),
        (("benchmark", *R2D2, "--data", f"mine={PAIRS}", "--templates", "all"), "--templates"),
        (("benchmark", *R2D2, "--data", f"mine={PAIRS}", "--limit", 4), "--limit"),
        (("benchmark", *R2D2, "--data", f"mine={LABELLED}", "--split", "val", "--depth", 128), "--rerank-k"),
        (("benchmark", *R2D2, "--data", f"mine={LABELLED}", "--split", "val", "--captions"), "--captions"),
        (("benchmark", *R2D2, "--data", "mine={}/classes", "--classes", "猫,狗", "--split", "val"), "--split val"),
        (("benchmark", *PRD2, "--data", f"mine={PAIRS}", "--rerank-k", 4), "--rerank-k"),
        (("benchmark", *PRD2, "--data", f"mine={PAIRS}", "--precision", "fp32"), "--precision"),
        (("export", *R2D2, "--out", "{}/onnx", "--split", "val"), "--split"),
        (("export", *R2D2, "--out", "{}/onnx", "--depth", 64), "--rerank-k"),
        (("export", *PRD2, "--out", "{}/onnx", "--data", PAIRS, "--rerank-k", 4), "--rerank-k"),
        (("search", "猫", "--no-rank", "--depth", 64), "--rerank-k"),
        (("search", "猫", "--no-rank", "--budget", 1), "--budget"),
        (("search", "--picture", "{}/a.png", "--rerank-k", 4), "--rerank-k"),
        (("search", "--picture", "{}/a.png", "--rank"), "--rank"),
        (("index", "{}/classes", *PRD2, "--out", "{}/index", "--states", 1), "--states"),
        (("index", "{}/classes", *R2D2, "--out", "{}/index", "--allow-private", "10.0.0.1"), "--allow-private"),
        (("serve", *R2D2, "--burst", 20), "--burst"),
        (("finetune", "retrieval", "data.folder={}/data", *R2D2, "--also-split", "val"), "--also-split"),
        (("finetune", "retrieval", "data.folder={}/data", *R2D2, "--also-field", "texts"), "--also-field"),
        (("finetune", "retrieval", "data.folder={}/data", "model.init_from=x", *R2D2), "--model and model.init_from="),
        (("quickstart", "data.folder=mine"), "override 'data.folder=mine'"),
        (("corpus", "build", "zero", "score.min_score=0.2", "--links", "{}/a.csv"), "'score.min_score'"),
        (("corpus", "build", "zero", "clicks.min_impressions=5", "--links", "{}/a.csv"), "'clicks.min_impressions'"),
        (("corpus", "build", "zero", "clicks.prior=[1, 2]", "--impressions", "{}/a"), "override 'clicks.prior=[1, 2]'"),
        (("serve", *R2D2, "--batch", 1, "--wait", 5), "--wait"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value,
)
def test_an_option_that_would_do_nothing_is_refused_by_name(
    command: Command, root: Path, arguments: tuple[object, ...], named: str
) -> None:
    outcome = command(*(str(one).replace("{}", str(root)) for one in arguments), *_out(arguments, root))
    assert outcome.code == 2, outcome
    assert outcome.err.startswith(f"ccmb: {named} ") or outcome.err.startswith(f"ccmb: {named}:"), outcome.err
    assert outcome.err.count("\n") == 1


def _out(arguments: tuple[object, ...], root: Path) -> tuple[object, ...]:
    return ("--out", root / "results") if arguments[0] == "benchmark" else ()


def test_the_split_of_class_folders_is_the_folder_of_its_name(command: Command, root: Path, tmp_path: Path) -> None:
    common = "evaluate", "--model", root / "r2d2", "--data", root / "split-classes", "--classes", "猫,狗"
    for split in ("train", "val"):
        file = tmp_path / f"{split}.json"
        assert command(*common, "--split", split, "--json", file).code == 0
        assert json.loads(file.read_text(encoding="utf-8"))["classification"]["pictures"] == 2


def test_several_names_stand_in_one_line(command: Command, root: Path) -> None:
    outcome = command("search", "猫", "--no-rank", "--depth", 3, "--budget", 1)
    assert outcome.err == (
        "ccmb: --rerank-k and --budget are of the second stage, which --no-rank leaves out; leave them out\n"
    )


def test_a_model_of_one_stage_beside_one_of_two_may_be_measured_with_a_depth(
    command: Command, root: Path, tmp_path: Path
) -> None:
    models = "--model", root / "r2d2", "--model", root / "prd2"
    pairs = "--data", f"mine={root / 'data' / 'pairs.jsonl'}"
    assert command("benchmark", *models, *pairs, "--depth", 3, "--out", tmp_path).code == 0
    depths = {path.stem: json.loads(path.read_text())["depth"] for path in (tmp_path / "mine.test").glob("*.json")}
    assert depths == {"r2d2": 3, "prd2": None}
