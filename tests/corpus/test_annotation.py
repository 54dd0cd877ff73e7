"""Annotation: agreement against worked examples, and rounds of simulated annotators of known error rates."""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.corpus.analysis.reader import indexed_images
from ccmb.corpus.analysis.verify import verify_corpus
from ccmb.corpus.annotation.agreement import fleiss_kappa, krippendorff_alpha
from ccmb.corpus.annotation.datasets import split_of, write_sets
from ccmb.corpus.annotation.label_studio import AnnotatorAnswer, as_export, export_tasks, read_answers, read_tasks
from ccmb.corpus.annotation.tasks import AnnotationTask, sample_tasks
from ccmb.corpus.annotation.votes import Trust, count_votes, winner
from ccmb.corpus.assembly.build import build_corpus
from ccmb.corpus.simulation.server import serve
from ccmb.datasets import open_dataset
from tests.helpers.corpus_web import draw_web, links_of, recipe
from tests.helpers.runs import command_line

# Fleiss (1971) as worked out on Wikipedia, "Fleiss' kappa": 10 subjects, 14 raters, 5 categories; kappa is 0.210.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, C: four observers, twelve units, missing data;
# nominal alpha is 0.743.
KRIPPENDORFF = [
    "1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .",
]  # fmt: skip


def test_kappa_is_that_of_the_worked_example() -> None:
    assert fleiss_kappa(np.array(FLEISS)) == pytest.approx(0.210, abs=5e-4)


def test_alpha_is_that_of_the_worked_example() -> None:
    rows = [row.split() for row in KRIPPENDORFF]
    units = [[value for value in unit if value != "."] for unit in zip(*rows, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_agreement_by_hand() -> None:
    # Two annotators, four items, one disagreement: observed 3/4, expected 34/64, kappa (0.75 - 0.53125) / 0.46875.
    counts = np.array([[2, 0], [2, 0], [1, 1], [0, 2]])
    assert fleiss_kappa(counts) == pytest.approx(0.21875 / 0.46875)
    # 8 values, 5 and 3: alpha = 1 - 7 * 2 / (64 - 25 - 9).
    assert krippendorff_alpha([[0, 0], [0, 0], [0, 1], [1, 1]]) == pytest.approx(1 - 7 * 2 / 30)
    with pytest.raises(ValueError, match="equally many"):
        fleiss_kappa(np.array([[2, 0], [1, 0]]))


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=2, max_size=5), min_size=2, max_size=12))
def test_alpha_is_one_less_the_share_of_chance_over_all_pairs(items: list[list[str]]) -> None:
    """Against its definition: disagreement within items over that of all values, each by pairs."""
    values = [value for item in items for value in item]
    within = sum(
        2 * sum(a != b for a, b in itertools.combinations(item, 2)) / (len(item) - 1) for item in items
    ) / len(values)  # fmt: skip
    everywhere = 2 * sum(a != b for a, b in itertools.combinations(values, 2)) / (len(values) * (len(values) - 1))
    if everywhere:
        assert krippendorff_alpha(items) == pytest.approx(1 - within / everywhere)
    else:
        assert np.isnan(krippendorff_alpha(items))


def tasks_of(count: int, gold: int) -> list[AnnotationTask]:
    return [
        AnnotationTask(f"t{index}", "matching", "short", f"k{index}", "s", str(index), "文", index % 2, index < gold)
        for index in range(count)
    ]


def simulated(
    tasks: list[AnnotationTask], errors: dict[str, float], truth: dict[str, int], seed: int = 0
) -> list[AnnotatorAnswer]:
    rng = random.Random(seed)
    return [
        AnnotatorAnswer(task.id, name, truth[task.id] ^ (rng.random() < error))
        for task in tasks for name, error in errors.items()
    ]  # fmt: skip


def test_bad_annotators_are_found_and_the_majority_is_right() -> None:
    tasks = tasks_of(600, 60)
    truth = {task.id: task.drawn_as or 0 for task in tasks}
    errors = {"a": 0.03, "b": 0.05, "c": 0.1, "d": 0.1, "careless": 0.5}
    result = count_votes(tasks, simulated(tasks, errors, truth), Trust(votes=3))
    trusted = {annotator.name: annotator.trusted for annotator in result.annotators}
    assert trusted == {"a": True, "b": True, "c": True, "d": True, "careless": False}
    for annotator in result.annotators:
        assert annotator.gold_answers == 60
        assert 1 - annotator.gold_right / 60 == pytest.approx(errors[annotator.name], abs=0.13)
    right = [result.labels[name] == truth[name] for name in result.labels]
    assert len(right) > 500
    assert np.mean(right) > 0.99
    assert len(result.labels) + len(result.undecided) == 540
    # Agreement of two independent annotators of errors p and q is (1-p)(1-q) + pq; chance is a half here.
    pairs = list(itertools.combinations([0.03, 0.05, 0.1, 0.1], 2))
    expected = np.mean([(1 - p) * (1 - q) + p * q for p, q in pairs])
    assert result.kappa == pytest.approx(2 * expected - 1, abs=0.05)
    assert result.alpha == pytest.approx(result.kappa, abs=0.01)


def test_a_second_round_decides_what_the_first_did_not() -> None:
    tasks = tasks_of(400, 20)
    truth = {task.id: task.drawn_as or 0 for task in tasks}
    first = simulated(tasks, dict.fromkeys("abcd", 0.2), truth, seed=2)
    before = count_votes(tasks, first, Trust(gold_share=0.5))
    assert before.undecided
    second = simulated(before.undecided, dict.fromkeys("efg", 0.02), truth, seed=3)
    after = count_votes(tasks, first + second, Trust(gold_share=0.5))
    assert len(after.undecided) < len(before.undecided) / 4
    asked = {task.id for task in before.undecided} & set(after.labels)
    assert np.mean([after.labels[name] == truth[name] for name in asked]) > 0.95


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 1], None), ([1, 1, 0], 1), ([1, 0, 1, 0], None), ([0, 0, 0, 1], 0), ([], None)]
)
def test_who_wins(labels: list[int], expected: int | None) -> None:
    assert winner(labels, Trust(votes=3, majority=0.66)) == expected


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotation")
    with serve(draw_web(folder / "web", 60)) as base:
        build_corpus(links_of(folder / "web", base), recipe(), folder / "corpus")
    assert verify_corpus(folder / "corpus").problems == []
    return folder / "corpus"


def test_tasks_are_half_and_half_and_hard_negatives_are_of_other_images(corpus: Path) -> None:
    tasks = sample_tasks(corpus, "long", pairs=40, captions=5, gold=8)
    assert sample_tasks(corpus, "long", pairs=40, captions=5, gold=8) == tasks
    asked = [task for task in tasks if task.question == "matching"]
    drawn = [task.drawn_as for task in asked if not task.gold]
    assert drawn.count(1) == 20
    assert drawn.count(0) == pytest.approx(20, abs=1)
    assert sum(task.gold for task in asked) == pytest.approx(8, abs=1)
    assert len({task.key for task in asked}) == len(asked)
    assert sum(task.question == "caption" for task in tasks) == 5
    own = {image.row["key"]: {pair["text"] for pair in image.pairs} for image in indexed_images(corpus)}
    for task in asked:
        assert (task.text in own[task.key]) == bool(task.drawn_as)

    def shared(task: AnnotationTask) -> float:
        letters = set("".join(own[task.key]))
        return len(letters & set(task.text)) / len(set(task.text))

    hard = [shared(task) for task in asked if task.drawn_as == 0 and not task.gold]
    easy = [shared(task) for task in asked if task.drawn_as == 0 and task.gold]
    assert np.mean(hard) > np.mean(easy) + 0.2


def test_too_few_images_are_one_line(corpus: Path) -> None:
    with pytest.raises(CcmbError, match=r"images have a short text, 10 are asked for"):
        sample_tasks(corpus, "short", pairs=10)


def test_a_round_from_export_to_data_sets(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, out, sets = command_line(monkeypatch, capfd), tmp_path / "round", tmp_path / "sets"
    words = ["--length", "long", "--pairs", 40, "--captions", 6, "--gold", 8, "--out", out]
    first = command("corpus", "annotate", "export", corpus, *words)
    assert first.code == 0
    for needed in ("$image and $text", "LOCAL_FILES_SERVING_ENABLED=true", f"LOCAL_FILES_DOCUMENT_ROOT={out}\n"):
        assert needed in first.out
    again = command("corpus", "annotate", "export", corpus, *words)
    assert (again.code, "holds tasks already" in again.err) == (1, True)
    shown = json.loads((out / "tasks.json").read_text())
    assert all(set(task["data"]) == {"id", "image", "text"} for task in shown)
    assert all((out / task["data"]["image"].partition("?d=")[2]).is_file() for task in shown)
    tasks = read_tasks(out)
    asked = [task for task in tasks if task.question == "matching"]
    truth = {task.id: task.drawn_as or 0 for task in asked}
    answers = simulated(asked, {"a@x": 0.0, "b@x": 0.0, "c@x": 0.0, "lazy@x": 0.6}, truth)
    answers += [
        AnnotatorAnswer(task.id, "a@x", caption=f"一幅画 {task.id}") for task in tasks if task.question == "caption"
    ]
    (tmp_path / "answers.json").write_text(as_export(tasks, answers))
    assert sorted(map(str, read_answers(tmp_path / "answers.json", tasks))) == sorted(map(str, answers))
    outcome = command("corpus", "annotate", "import", out, tmp_path / "answers.json", "--out", sets, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["decided"] == sum(not task.gold for task in asked)
    assert {annotator["name"] for annotator in report["annotators"] if not annotator["trusted"]} == {"lazy@x"}
    assert report["krippendorff_alpha"] == report["fleiss_kappa"] == 1
    matched = [
        json.loads(line) for path in sets.glob("ICM/*/long_itm_*.json") for line in path.read_text().splitlines()
    ]
    assert len(matched) == report["decided"]
    drawn = {(task.text, f"images/{task.sample}.jpg"): task.drawn_as for task in asked if not task.gold}
    assert {(line["text"], line["image_path"]): line["label"] for line in matched} == drawn
    dataset = open_dataset("icm", sets / "ICM", "train", sets / "images")
    assert len(dataset.samples) == len((sets / "ICM/train/long_itm_train.json").read_text().splitlines())
    assert not dataset.skipped.findings


def test_no_image_is_in_two_splits(corpus: Path, tmp_path: Path) -> None:
    """Whatever set and round it comes from."""
    where: dict[str, set[str]] = defaultdict(set)
    for seed in (0, 1):
        tasks = sample_tasks(corpus, "long", pairs=30, captions=20, seed=seed)
        export_tasks(corpus, tasks, tmp_path / f"round-{seed}")
        both = [*tasks, *(replace(task, id=f"q{task.id}", length="short") for task in tasks if task.text)]
        answers = [AnnotatorAnswer(task.id, name, 1) for task in both if task.text for name in "abc"]
        answers += [AnnotatorAnswer(task.id, "a", caption="画") for task in both if not task.text]
        votes = count_votes(both, answers)
        lines = write_sets(both, votes, tmp_path / f"round-{seed}", tmp_path / f"sets-{seed}")
        assert {name.split()[0] for name in lines} == {"ICM", "IQM", "ICR", "IQR"}
        for path in (tmp_path / f"sets-{seed}").glob("I*/*/*.json"):
            for line in path.read_text().splitlines():
                where[json.loads(line)["image_path"]].add(path.parent.name)
    assert len(where) > 30
    assert all(len(splits) == 1 for splits in where.values())


@given(st.lists(st.uuids().map(str), min_size=400, max_size=400, unique=True))
def test_splits_have_their_shares(keys: list[str]) -> None:
    assert [split_of(key) for key in keys].count("train") == pytest.approx(320, abs=50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not an export of Label Studio"),
        ('[{"data": {"id": "x"}}]', "unknown or without 'x'"),
        ("[1]", "not a task"),
    ],
)
def test_other_exports_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(CcmbError, match=message):
        read_answers(tmp_path / "answers.json", tasks_of(2, 0))


FORMS = {
    "number": 7,
    "address": "ann@x.com",
    "address and number": "ann@x.com, 7",
    "name, address and number": "Ann ann@x.com, 7",
    "object": {"id": 7, "email": "ann@x.com", "first_name": "", "last_name": ""},
    "object without address": {"id": 7, "email": None},
    "list": [7],
    "list of objects": [{"id": 7, "email": "ann@x.com"}],
    "number and address": [7, "ann@x.com"],
    "digits": "7",
}


def exported(path: Path, tasks: list[AnnotationTask], *annotators: list[object]) -> Path:
    """An export whose annotations of each task are by the given `completed_by`; Ellipsis leaves it out."""
    lines = []
    for task, forms in zip(tasks, annotators, strict=True):
        result = [{"from_name": "fits", "value": {"choices": ["符合"]}}, {"type": "relation", "from_id": "a"}]
        annotations = [{"result": result} | ({} if who is ... else {"completed_by": who}) for who in forms]
        lines.append({"data": {"id": task.id}, "annotations": annotations})
    path.write_text(json.dumps(lines))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_one_annotator_in_any_form_of_completed_by_is_one(tmp_path: Path, form: str) -> None:
    tasks = tasks_of(2, 0)
    first = exported(tmp_path / "1.json", tasks, [FORMS["object"], 8], [FORMS["object"]])
    second = exported(tmp_path / "2.json", tasks, [FORMS[form]], [])
    answers = read_answers([first, second], tasks)
    assert sorted((answer.task, answer.annotator) for answer in answers) == sorted(
        [(tasks[0].id, "8"), *((task.id, "ann@x.com") for task in tasks)]
    )
    assert all(answer.named and answer.label == 1 for answer in answers)


@pytest.mark.parametrize("nobody", [None, ..., {}, "", [], {"id": None, "email": ""}], ids=str)
def test_answers_of_unknown_annotators_are_counted_and_none_is_lost(tmp_path: Path, nobody: object) -> None:
    tasks = tasks_of(2, 0)
    path = exported(tmp_path / "1.json", tasks, [nobody, 3, nobody], [nobody])
    answers = read_answers(path, tasks)
    assert [(answer.task, answer.annotator, answer.named) for answer in answers] == [
        (tasks[0].id, "unknown-1", False), (tasks[0].id, "3", True), (tasks[0].id, "unknown-2", False),
        (tasks[1].id, "unknown-1", False),
    ]  # fmt: skip


def test_an_export_in_json_min_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('[{"id": 1, "text": "x", "fits": "符合", "annotator": 1}]')
    with pytest.raises(CcmbError, match="JSON-MIN; choose JSON"):
        read_answers(tmp_path / "answers.json", tasks_of(2, 0))
