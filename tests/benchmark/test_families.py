"""The benchmark beyond retrieval: labelled pairs and folders of classes, for any model, and nothing done twice."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch

from ccmb.benchmark.evaluation import classification as measuring
from ccmb.benchmark.evaluation.classification_sets import ClassSet
from ccmb.benchmark.evaluation.matching import MatchingSet
from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import read_result
from ccmb.benchmark.runner import run_benchmark
from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.images.source import ImageSource
from ccmb.datasets.matching import open_labelled
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.stages import RankOptions
from ccmb.r2d2.folders.match_temperature import store_match_temperature
from ccmb.r2d2.loading import load_model
from ccmb.scenes.classification import write_class_folders
from ccmb.scenes.scene import COLOURS, KINDS
from ccmb.tasks.classification.evaluate import evaluate_classes
from ccmb.tasks.classification.prompts import TEMPLATES
from ccmb.tasks.classification.rerank import make_classifier
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.matching.evaluate import evaluate_matching
from ccmb.tasks.matching.metrics import auc
from tests.helpers.benchmark_data import save_set
from tests.helpers.downstream_samples import write_imagenet, write_matching
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

IMAGES = 6
FEW = Settings(draws=40)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Labelled pairs of the splits val and test, beside their images."""
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    lines = []
    for index, image in enumerate(tiny_images(IMAGES)):
        image.save(folder / "images" / f"{index}.png")
        for step in range(4):
            line = {"image": f"{index}.png", "text": TEXTS[(index + step) % len(TEXTS)], "label": int(step % 3 == 0)}
            lines.append(line | {"split": "test" if index % 2 else "val"})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "labelled.jsonl").write_text(text, encoding="utf-8")
    return folder / "labelled.jsonl"


@pytest.fixture
def r2d2(tmp_path: Path) -> str:
    return str(save_r2d2(tmp_path / "r2d2"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(save_two_towers(tmp_path / "clip", "chinese_clip"))


# --- sets


def test_sets_are_told_apart_by_what_is_in_them(labelled: Path, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    matching = open_measured_set(f"mine={labelled}", "val")
    assert isinstance(matching, MatchingSet)
    assert (matching.name, len(matching.samples)) == ("mine", 4 * IMAGES // 2)
    assert isinstance(open_measured_set(str(save_set(tmp_path / "drawn"))), RetrievalSet)
    assert isinstance(open_measured_set(f"icm={write_matching(tmp_path / 'zero')}", "val"), MatchingSet)
    kinds = open_measured_set(str(tmp_path / "kinds"))
    assert isinstance(kinds, ClassSet)
    assert (kinds.name, kinds.split, kinds.class_list, len(kinds.classes)) == ("kinds", "all", "classes.json", 26)
    assert kinds.prompt_set.startswith(f"all ({len(TEMPLATES)}) ")
    with pytest.raises(UsageError, match="is not a set of labelled pairs"):
        open_labelled(write_imagenet(tmp_path / "i"), "val", name="imagenet")


def test_imagenet_brings_its_names_and_prompts_unless_others_are_asked_for(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path / "imagenet")
    own = open_measured_set(f"imagenet={folder}", "val")
    assert isinstance(own, ClassSet)
    assert [one.names for one in own.classes] == [("丁鲷",), ("金鱼", "鲫鱼")]
    assert (own.split, own.class_list, own.templates) == ("val", "its own", ("{}的照片。", "一张{}的照片。"))
    assert [one.label for one in own.labelled] == [0, 0, 1, 1]
    shipped = open_measured_set(f"imagenet={folder}", "val", classes="imagenet", templates="plain")
    assert isinstance(shipped, ClassSet)
    assert (len(shipped.classes), len(shipped.templates), shipped.class_list) == (1000, 1, "imagenet")
    assert [one.name for one in shipped.labelled] == [one.name for one in own.labelled]
    assert shipped.revision != own.revision  # other names are another question
    (folder / "classes.txt").unlink()
    assert len(open_measured_set(f"imagenet={folder}", "val").classes) == 1000  # type: ignore[union-attr]


def test_the_revision_of_labelled_pairs_is_of_their_labels_too(labelled: Path) -> None:
    first = open_measured_set(f"a={labelled}").revision
    labelled.write_text(labelled.read_text(encoding="utf-8").replace('"label": 1', '"label": 0', 1), encoding="utf-8")
    assert open_measured_set(f"a={labelled}", "val").revision != first
    every_split = open_measured_set(f"a={labelled}").revision
    changed = labelled.read_text(encoding="utf-8")
    last = changed.rindex('"label": 1')
    labelled.write_text(changed[:last] + '"label": 0' + changed[last + 10 :], encoding="utf-8")
    assert open_measured_set(f"a={labelled}").revision != every_split


# --- matching


def test_matching_metrics_are_those_of_evaluate_and_of_the_scores_kept(
    labelled: Path, r2d2: str, tmp_path: Path
) -> None:
    [path] = run_benchmark([r2d2], [open_measured_set(f"mine={labelled}")], tmp_path / "out", Settings()).measured
    result = read_result(path)
    section = result.matching
    assert section is not None
    assert (result.family, result.stages, result.prompt_set, result.depth) == (
        "matching", ("pre_ranking", "ranking"), None, None,
    )  # fmt: skip
    report = evaluate_matching(R2D2Stages(*load_model(r2d2)), open_labelled(labelled, "test"))["matching"]
    section_json = section.model_dump(by_alias=True, exclude={"labels", "scores"}, exclude_defaults=False)
    for name, value in report.items():
        if name not in ("interval", "fitted", "pre_ranking"):
            assert section_json[name] == value, name
    assert section.pre_ranking is not None
    for stage, stage_scores in section.scores.items():
        expected = auc(torch.tensor(stage_scores), torch.tensor(section.labels))
        assert section.at_stage(stage).auc == pytest.approx(expected, abs=1e-4)
    assert (result.data.images, result.data.texts) == (
        3,
        len({TEXTS[(p + s) % 8] for p in (1, 3, 5) for s in range(4)}),
    )
    assert sorted(set(result.resampling_unit)) == [0, 1, 2]


def test_a_model_that_cannot_rank_is_scored_by_its_cosine_and_the_result_says_so(
    labelled: Path, clip: str, tmp_path: Path
) -> None:
    [path] = run_benchmark([clip], [open_measured_set(f"mine={labelled}")], tmp_path / "out", FEW).measured
    result = read_result(path)
    assert result.matching is not None
    assert (result.model.stages, result.matching.stage, result.stages) == (1, "pre_ranking", ("pre_ranking",))
    assert (result.matching.accuracy, result.matching.calibration_error, result.matching.pre_ranking) == (None,) * 3
    assert set(result.matching.scores) == {"pre_ranking"}


def test_another_temperature_is_another_probability_and_is_measured_anew(
    labelled: Path, clip: str, tmp_path: Path
) -> None:
    folder, sets = save_r2d2(tmp_path / "made"), [open_measured_set(f"mine={labelled}")]
    before = run_benchmark([str(folder), clip], sets, tmp_path / "out", FEW)
    assert len(before.measured) == 2
    assert run_benchmark([str(folder), clip], sets, tmp_path / "out", FEW).skipped == before.measured
    store_match_temperature(folder, 7.0)
    again = run_benchmark([str(folder), clip], sets, tmp_path / "out", FEW)
    assert (again.measured, again.skipped) == (before.measured[:1], before.measured[1:])
    matching = read_result(again.measured[0]).matching
    assert matching is not None
    assert matching.match_temperature == 7.0


# --- classification


def test_classification_metrics_are_those_of_evaluate(r2d2: str, clip: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "colours", "colour", per_class=2, size=32)
    opened = open_measured_set(str(tmp_path / "colours"), templates="plain")
    assert isinstance(opened, ClassSet)
    deep = Settings(draws=40, class_depth=3)
    first, second = run_benchmark([r2d2, clip], [opened], tmp_path / "out", deep).measured
    result = read_result(first)
    section = result.classification
    assert section is not None
    classifier = make_classifier(R2D2Stages(*load_model(r2d2)), opened.classes, opened.templates, 3)
    report = evaluate_classes(classifier, ImageSource.open(tmp_path / "colours"))["classification"]
    section_json = json.loads(json.dumps(section.model_dump(by_alias=True, exclude={"ranks", "class_list"})))
    assert section_json == json.loads(json.dumps(report))
    assert (result.prompt_set, result.depth, result.stages) == (opened.prompt_set, 3, ("pre_ranking", "ranking"))
    assert (result.data.images, result.data.texts) == (2 * len(COLOURS), len(COLOURS))
    for stage, ranks in section.ranks.items():
        share = 100 * sum(rank == 1 for rank in ranks) / len(ranks)
        assert section.at_stage(stage).top1 == pytest.approx(share, abs=0.01)
    alone = read_result(second)
    assert alone.classification is not None
    assert (alone.depth, alone.classification.ranking, alone.stages) == (None, None, ("pre_ranking",))


def test_other_prompts_or_depths_are_measured_anew(r2d2: str, clip: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    models, out = [r2d2, clip], tmp_path / "out"

    def count(templates: str, settings: Settings) -> tuple[int, int]:
        outcome = run_benchmark(
            models, [open_measured_set(str(tmp_path / "kinds"), templates=templates)], out, settings
        )
        return len(outcome.measured), len(outcome.skipped)

    assert count("plain", FEW) == (2, 0)
    assert count("plain", FEW) == (0, 2)
    assert count("这是{}", FEW) == (2, 0)
    assert count("这是{}", Settings(draws=40, class_depth=2)) == (1, 1)  # the other one has no second stage


def test_only_retrieval_knows_of_a_second_stage_that_is_less_than_exact(
    labelled: Path, r2d2: str, tmp_path: Path
) -> None:
    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    sets = [open_measured_set(f"mine={labelled}"), open_measured_set(str(tmp_path / "kinds"))]
    exact = run_benchmark([r2d2], sets, tmp_path / "out", Settings(draws=40, class_depth=3)).measured
    cheap = Settings(draws=40, class_depth=3, ranking=RankOptions("bf16", 2))
    assert run_benchmark([r2d2], sets, tmp_path / "out", cheap).skipped == exact
    anew = run_benchmark([r2d2], sets, tmp_path / "cheap", cheap).measured
    for before, after in zip(map(read_result, exact), map(read_result, anew), strict=True):
        assert (after.precision, after.cascade) == (None, None)
        assert (after.matching, after.classification) == (before.matching, before.classification)


def test_stored_features_cannot_classify_and_say_so_in_one_line(labelled: Path, r2d2: str, tmp_path: Path) -> None:
    from tests.helpers.model_features import save_features

    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    names = [f"{index}.png" for index in range(IMAGES)]
    features = save_features(tmp_path / "features", torch.eye(6, 8), torch.eye(8), names, list(TEXTS))
    sets = [open_measured_set(str(tmp_path / "kinds")), open_measured_set(f"mine={labelled}")]
    outcome = run_benchmark([str(features)], sets, tmp_path / "out", FEW)
    assert outcome.failed == [
        "features on kinds: stored features cannot classify: it takes a model that encodes images and prompts"
    ]
    [path] = outcome.measured
    matching = read_result(path).matching
    assert matching is not None
    # One-hot features: the text at an image's own place, which fits, and no other has a cosine of 1.
    assert matching.auc == pytest.approx(0.5 + 0.5 / 2)


def test_all_families_are_measured_in_one_call_and_go_on_after_a_stop(
    labelled: Path, r2d2: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    specs = [f"mine={labelled}", str(save_set(tmp_path / "drawn")), str(tmp_path / "kinds")]
    sets, out = [open_measured_set(spec) for spec in specs], tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "class_ranks", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark([r2d2], sets, out, FEW)
    outcome = run_benchmark([r2d2], sets, out, FEW)
    assert (len(outcome.skipped), len(outcome.measured)) == (2, 1)
    families = [read_result(path).family for path in sorted(out.glob("*/*.json"))]
    assert families == ["retrieval", "classification", "matching"]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_result_has_one_family(labelled: Path, clip: str, tmp_path: Path) -> None:
    [path] = run_benchmark([clip], [open_measured_set(f"mine={labelled}")], tmp_path / "out", FEW).measured
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"matching": None}), encoding="utf-8")
    with pytest.raises(
        CcmbError, match="needs one of retrieval, matching, classification, captioning, generation; measure anew"
    ):
        read_result(path)
    del values["classification"], values["retrieval"]  # as one that knew none of these would have it
    path.write_text(json.dumps(values), encoding="utf-8")
    assert read_result(path).family == "matching"


# --- the command line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def test_benchmark_measures_classes_by_their_names(command: Command, r2d2: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    (tmp_path / "kinds" / "classes.json").unlink()
    benchmark = ["benchmark", "-m", r2d2, "-d", f"mine={tmp_path / 'kinds'}", "-o", tmp_path / "out"]
    output = command(*benchmark)
    assert (output.code, "say with --classes what its folders show" in output.err) == (2, True)
    output = command(*benchmark, "--classes", ",".join(KINDS), "--templates", "plain", "--class-depth", 2)
    assert output.code == 0
    assert output.out.startswith(f"{tmp_path}/out/mine.all/r2d2.json: measured\n")
    with tarfile.open(tmp_path / "kinds.tar", "w") as tar:
        tar.add(tmp_path / "kinds", "kinds")
    packed = ["benchmark", "-m", r2d2, "-d", f"packed={tmp_path / 'kinds.tar'}", "-o", tmp_path / "out"]
    assert "say with --classes what its folders show" in command(*packed).err
    assert command(*packed, "--classes", ",".join(KINDS), "--templates", "plain").code == 0
    output = command(*benchmark, "--classes", "猫,狗")
    assert (output.code, output.err.count("\n")) == (1, 1)
    assert "names none of the 2 classes" in output.err


def test_evaluate_scores_labelled_pairs(command: Command, labelled: Path, r2d2: str, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    evaluate = ["evaluate", "--model", r2d2, "--data", labelled, "--json", report_file]
    code, out, err = command(*evaluate, "--fit-split", "val")
    assert (code, err) == (0, "")
    report = json.loads(report_file.read_text(encoding="utf-8"))
    matching = report["matching"]
    assert set(report) == {"matching", "unreadable", "seconds", "seen"}
    assert set(matching) == {
        "pairs", "pictures", "matches", "stage", "match_temperature", "auc", "accuracy", "accuracy_fitted",
        "calibration_error", "calibration_error_plain", "calibration_error_fitted", "interval", "fitted", "pre_ranking",
    }  # fmt: skip
    assert (matching["pairs"], matching["pictures"], matching["fitted"]["on"]) == (12, 3, "another split")
    assert out.splitlines()[0] == "12 pairs of 3 images, 6 of them matches"
    low, high = matching["interval"]["auc"]
    [line] = [line for line in out.splitlines() if line.startswith("AUC")]
    assert f"{100 * matching['auc']:.1f} ({100 * low:.1f} to {100 * high:.1f})" in line
    assert out.splitlines()[-1] == "fitted on another split"


def test_evaluate_scores_icm_as_published_and_says_what_towers_alone_cannot(command: Command, tmp_path: Path) -> None:
    folder = write_matching(tmp_path / "zero")
    towers = save_r2d2(tmp_path / "prd2", cross_layers=0)
    code, out, err = command("evaluate", "--model", towers, "--data", f"icm={folder}", "--split", "val")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "2 pairs of 1 images, 1 of them matches; no cross encoders, so the cosine alone scores them"
    assert [line.split("  ")[0] for line in lines[2:]] == ["AUC", "too little of both labels to fit a threshold on"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--depth", 3], 2, "is of retrieval"),
        (["--cascade", 3], 2, "is of retrieval"),
        (["--precision", "bf16"], 2, "is of retrieval"),
        (["--fit-split", "test"], 2, "the split that is scored"),
        (["--split", "tset"], 1, "no images in split 'tset' (did you mean 'test'?)"),
        (["--fit-split", "train"], 1, "no images in split 'train'"),
        (["--data", "icm=nowhere"], 2, "--data icm=nowhere: no such file or folder"),
    ],
)
def test_evaluate_says_in_one_line_what_is_wrong(
    arguments: list[object], code: int, words: str, command: Command, labelled: Path, tmp_path: Path
) -> None:
    output = command("evaluate", "--model", tmp_path / "none", "--data", labelled, *arguments)
    assert (output.code, output.out, output.err.count("\n")) == (code, "", 1)
    assert words in output.err


def test_labels_that_are_all_alike_are_told_in_one_line(command: Command, labelled: Path, r2d2: str) -> None:
    labelled.write_text(labelled.read_text(encoding="utf-8").replace('"label": 0', '"label": 1'), encoding="utf-8")
    output = command("evaluate", "--model", r2d2, "--data", labelled)
    assert (output.code, output.err.count("\n")) == (1, 1)
    assert "all 12 pairs are labelled as a match" in output.err


def test_retrieval_pairs_take_no_split_to_fit_on(command: Command, r2d2: str, tmp_path: Path) -> None:
    pairs = save_set(tmp_path / "drawn")
    output = command("evaluate", "--model", r2d2, "--data", pairs, "--fit-split", "val")
    assert (output.code, output.err) == (
        2,
        "ccmb: --fit-split is of labelled pairs, and does nothing with retrieval; leave it out\n",
    )
