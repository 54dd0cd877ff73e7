"""Agreement with human grades: correlations equal scipy's, AUC scikit-learn's, and files are read as published."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from ccmb.core.errors import CcmbError
from ccmb.data.sample import Sample
from ccmb.tasks.common.resampling import on_all
from ccmb.tasks.judgement.correlation import kendall_tau_b, kendall_tau_c, spearman
from ccmb.tasks.judgement.grades import Graded, read_graded, read_published
from ccmb.tasks.judgement.metrics import agreement, graded_ndcg, graded_report, thresholds
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

stats = pytest.importorskip("scipy.stats")
METRICS = {
    kendall_tau_b: lambda x, y: stats.kendalltau(x, y, variant="b").statistic,
    kendall_tau_c: lambda x, y: stats.kendalltau(x, y, variant="c").statistic,
    spearman: lambda x, y: stats.spearmanr(x, y).statistic,
}


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties and grades of a few levels that lean on them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 80))
    score = np.round(rng.normal(size=count), int(rng.integers(0, 4)))
    grade = np.round(np.clip(score + rng.normal(size=count), -1, 2) * rng.choice([1, 3])) / 3
    return score, grade


@pytest.mark.parametrize("metric", METRICS)
def test_correlations_are_scipys_on_two_hundred_graded_cases(metric) -> None:  # type: ignore[no-untyped-def]
    for seed in range(200):
        score, grade = drawn(seed)
        value, expected = on_all(metric(score, grade), len(score)), METRICS[metric](score, grade)
        assert value == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_that_counts_twice_is_two_pairs(metric) -> None:  # type: ignore[no-untyped-def]
    for seed in range(40):
        score, grade = drawn(seed)
        weight = np.random.default_rng(seed).integers(0, 4, len(score))
        row = np.repeat(np.arange(len(score)), weight)
        same = all(len(set(values[row])) == len(set(values)) for values in (score, grade))
        if metric is kendall_tau_c and not same:  # whose number of classes is that of all pairs
            continue
        value = float(metric(score, grade)(weight[None].astype(float))[0])
        assert value == pytest.approx(METRICS[metric](score[row], grade[row]), abs=1e-9, nan_ok=True)


def graded(count: int, judges: int, seed: int = 0) -> list[Graded]:
    rng = random.Random(seed)
    pairs = []
    for row in range(count):
        base = rng.randint(1, 4)
        grades = tuple(float(min(4, max(1, base + rng.choice([-1, 0, 0, 1])))) for _ in range(judges))
        pairs.append(Graded(Sample(f"{row % 7}.png", (f"t{row % 5}",)), grades))
    return pairs


def test_auc_at_each_threshold_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    for seed in range(50):
        pairs = graded(40, 3, seed)
        score = np.random.default_rng(seed).normal(size=40).round(1)
        image = np.array([int(pair.sample.image[0]) for pair in pairs])
        report = graded_report(pairs, score, image, draws=20)
        mean = np.array([pair.mean for pair in pairs])
        assert {float(key) for key in report["auc"]} <= {2.0, 3.0, 4.0}
        for key, metric in report["auc"].items():
            assert metric["value"] == pytest.approx(sklearn.roc_auc_score(mean >= float(key), score), abs=1e-4)


def test_each_judgement_counts_as_a_pair_of_its_own() -> None:
    pairs, score = graded(30, 3), np.random.default_rng(0).normal(size=30)
    report = graded_report(pairs, score, np.arange(30), draws=20)
    flat = [(score[row], grade) for row, pair in enumerate(pairs) for grade in pair.grades]
    expected = stats.kendalltau(*zip(*flat, strict=True), variant="c").statistic
    assert report["each_judgement"]["tau_c"]["value"] == pytest.approx(expected, abs=1e-4)


def test_thresholds_are_whole_grades_or_a_half() -> None:
    assert thresholds(np.array([1.0, 1.33, 4.0])) == [2.0, 3.0, 4.0]
    assert thresholds(np.array([0.0, 0.25, 1.0])) == [0.5]


def test_judges_that_agree_are_a_ceiling_of_one() -> None:
    alike = [Graded(Sample("a", ("b",)), (grade,) * 3) for grade in (1.0, 2.0, 3.0, 4.0)]
    assert agreement(alike) == {"judges": 3, "tau_b": 1.0, "tau_c": 1.0, "spearman": 1.0}
    assert agreement([Graded(Sample("a", ("b",)), (1.0,)), Graded(Sample("a", ("c",)), (2.0,))]) is None
    ceiling = agreement(graded(60, 3))
    assert ceiling is not None
    assert 0.3 < ceiling["tau_b"] < 1


def test_ndcg_by_hand() -> None:
    rows = [("a", "t", 3.0), ("b", "t", 1.0), ("c", "t", 2.0), ("a", "alone", 1.0)]
    pairs = [Graded(Sample(image, (text,)), (grade,)) for image, text, grade in rows]
    values = graded_ndcg(pairs, np.array([0.1, 0.9, 0.5, 0.0]))
    gains = [0, 1 / np.log2(3), 2 / np.log2(4)]  # b, c, a with gains 0, 1, 2
    best = 2 + 1 / np.log2(3)
    assert values["text_to_image"] == {"value": pytest.approx(sum(gains) / best, abs=1e-4), "queries": 1}
    assert values["image_to_text"] == {"value": 1.0, "queries": 1}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "images").mkdir(parents=True)
    for row, image in enumerate(tiny_images(4)):
        image.save(tmp_path / "set" / "images" / f"{row}.jpg")
    lines = [{"image": f"{row}.jpg", "zhm": [f"{TEXTS[row]}{mark}" for mark in "一二"]} for row in range(4)]
    (tmp_path / "set" / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    expert = [f"{image}.jpg\t{caption}.jpg#{caption % 2}\t{1 + (image == caption)}\t{1 + image}\t2"
              for image in range(4) for caption in range(4)]  # fmt: skip
    (tmp_path / "set" / "ExpertAnnotations.txt").write_text("\n".join([*expert, "0.jpg\t9.jpg#0\t1\t1\t1"]), "utf-8")
    crowd = [
        f"{image}.jpg\t{caption}.jpg#1\t0.5\t{1 + (image == caption)}\t1" for image in range(4) for caption in (0, 1)
    ]
    (tmp_path / "set" / "CrowdFlowerAnnotations.txt").write_text("\n".join(crowd), "utf-8")
    return tmp_path / "set"


def test_published_judgements_are_joined_to_captions_by_their_ids(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = read_published("flickr8k-expert", folder, "zhm")
    assert len(pairs) == 16
    assert "1 pairs name captions that are not in" in caplog.text
    assert pairs[5] == Graded(Sample("1.jpg", (f"{TEXTS[1]}二",), "test"), (2.0, 2.0, 2.0))
    crowd = read_published("flickr8k-cf", folder, "zhm")
    assert crowd[0].grades == (1.0, 1.0, 0.0)
    for line, words in (
        ("0.jpg\t0.jpg#0\t1\t1", "has 4 columns"), ("0.jpg\t0.jpg\t1\t1\t1", "no caption's id"),
        ("0.jpg\t0.jpg#0\t1\tx\t1", "judgements are numbers"),
    ):  # fmt: skip
        (folder / "ExpertAnnotations.txt").write_text(line, "utf-8")
        with pytest.raises(CcmbError, match=words):
            read_published("flickr8k-expert", folder, "zhm")


def test_evaluate_takes_both_forms(folder: Path, tmp_path: Path, command: Command) -> None:
    model, clip = save_r2d2(tmp_path / "model"), save_two_towers(tmp_path / "clip", "clip")
    base = ("evaluate", "--data", f"flickr8k-expert={folder}", "--text-field", "zhm", "--json", tmp_path / "r.json")
    for name, stage in ((model, "ranking"), (clip, "pre_ranking")):
        done = command(*base, "--model", name)
        assert done.code == 0, done.err
        report = json.loads((tmp_path / "r.json").read_text("utf-8"))["judgement"]
        assert (report["pairs"], report["judgements"], report["stage"]) == (16, 48, stage)
        assert ("pre_ranking" in report) == (stage == "ranking")
        assert report["calibration_error"] is None  # no score is a probability before it is calibrated
        assert "Kendall's tau-b" in done.out
    own = [
        {"image": f"{pair.sample.image}", "text": pair.sample.texts[0], "grades": list(pair.grades), "split": "test"}
        for pair in read_published("flickr8k-expert", folder, "zhm")
    ]
    (folder / "graded.jsonl").write_text("\n".join(json.dumps(line) for line in own), "utf-8")
    assert (
        command("evaluate", "--model", clip, "--data", folder / "graded.jsonl", "--json", tmp_path / "own.json").code
        == 0
    )
    again = json.loads((tmp_path / "own.json").read_text("utf-8"))["judgement"]
    assert again == report
    assert len(read_graded(folder / "graded.jsonl", "test")) == 16


def test_faults_of_own_files_are_named(folder: Path) -> None:
    cases = {
        '"grades" must be a list of numbers': {"image": "0.jpg", "text": "x", "grades": 3},
        "\"grades\" holds 'a', which is no number": {"image": "0.jpg", "text": "x", "grades": ["a"]},
        'no "text"': {"image": "0.jpg", "grades": [1]},
    }
    for words, line in cases.items():
        (folder / "wrong.jsonl").write_text(json.dumps(line), "utf-8")
        with pytest.raises(CcmbError, match=words):
            read_graded(folder / "wrong.jsonl", None)
    pairs = [Graded(Sample("a", ("b",)), (2.0,))] * 3
    with pytest.raises(CcmbError, match="all 3 pairs have the grade 2"):
        graded_report(pairs, np.arange(3.0), np.arange(3))


def test_five_hundred_damaged_files_give_a_report_or_one_error(folder: Path) -> None:
    rng, path = random.Random(0), folder / "ExpertAnnotations.txt"
    whole = path.read_bytes()
    own = json.dumps({"image": "0.jpg", "text": "猫", "grades": [1, 2]}).encode()
    messages = list[str]()
    for case in range(500):
        data = bytearray(whole if case % 2 else own + b"\n" + own)
        for _ in range(rng.choice([1, 2, 9])):
            offset = rng.randrange(len(data))
            data[offset : offset + rng.choice([0, 1, 5])] = rng.choice(
                [b"\x00", b"\t", b"#", b"\xff", b"-", b"1e9", b"\n"]
            )
        target = path if case % 2 else folder / "own.jsonl"
        target.write_bytes(bytes(data))
        try:
            pairs = read_published("flickr8k-expert", folder, "zhm") if case % 2 else read_graded(target, None)
        except CcmbError as error:
            messages.append(str(error))
        else:
            assert all(pair.grades and np.isfinite(pair.grades).all() for pair in pairs)
    assert messages
    assert not any("\n" in message for message in messages)
