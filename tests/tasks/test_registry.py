"""The families of tasks: each is whole, and each option is read by one of them or refused by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pytest

from ccmb.benchmark.family import BenchmarkFamily
from ccmb.benchmark.leaderboard.columns import VIEWS
from ccmb.benchmark.registry import BENCHMARKS
from ccmb.benchmark.results.result import SECTIONS, Result, Section
from ccmb.cli.benchmark import benchmark
from ccmb.cli.evaluate import evaluate
from ccmb.core.errors import UsageError
from ccmb.core.options import Options
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.tasks.family import Report, TaskFamily
from ccmb.tasks.finetuning.finetuner import Finetuner
from ccmb.tasks.finetuning.recipe import TaskName
from ccmb.tasks.pretraining.run import save_model
from ccmb.tasks.registry import FAMILIES, family_of, finetuner_of
from tests.helpers.generators import tiny_generator
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import save_pairs, save_start

NAMES = list(FAMILIES)
# Values of options that a command line takes, whatever the family.
VALUES: dict[Any, tuple[object, ...]] = {
    "images": ("{}",), "decode": ("beam",), "ranking_rule": ("sum",), "precision": ("fp32",),
    "convention": ("official",), "rerank": (),
}  # fmt: skip


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


@dataclass(frozen=True)
class Case:
    """A model and data of one family, and the options that ask for it."""

    model: Path
    data: Path
    given: dict[str, Any]

    def arguments(self) -> list[object]:
        asked = [part for name, value in self.given.items() for part in _flag(name, value)]
        return ["--model", self.model, "--data", self.data, *asked]


def _flag(name: str, value: object) -> tuple[object, ...]:
    flag = f"--{name.replace('_', '-')}"
    return (flag,) if value is True else (flag, value)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("families")
    start = save_start(folder / "r2d2")
    save_model(folder / "captioner", R2D2Captioner.from_r2d2(tiny_model(), tiny_processor()), tiny_processor())
    save_model(folder / "painter", tiny_generator(), tiny_processor())
    pairs = save_pairs(folder / "data") / "pairs.jsonl"
    labelled = pairs.with_name("labelled.jsonl")
    lines = [{"image": f"test-{n}.png", "split": "test", "text": "一只红色的小船", "label": n % 2} for n in range(8)]
    labelled.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    graded = pairs.with_name("graded.jsonl")
    for number, line in enumerate(lines):
        line["grades"] = [number % 3, number % 2]
        del line["label"]
    graded.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for number, image in enumerate(tiny_images(4)):
        class_folder = folder / "classes" / ("猫", "狗")[number % 2]
        class_folder.mkdir(parents=True, exist_ok=True)
        image.save(class_folder / f"{number}.png")
    return {
        "retrieval": Case(start, pairs, {}),
        "matching": Case(start, labelled, {}),
        "judgement": Case(start, graded, {}),
        "classification": Case(start, folder / "classes", {"classes": "猫,狗"}),
        "captioning": Case(folder / "captioner", pairs, {"captions": True}),
        "generation": Case(folder / "painter", pairs, {"generate": True, "steps": 2}),
    }


# --- every family is whole


@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_of_its_own_name_options_and_types(name: str) -> None:
    family, measured = FAMILIES[name], BENCHMARKS.get(name)
    assert isinstance(family, TaskFamily)
    assert isinstance(measured, BenchmarkFamily | None)
    assert family.name == name
    for one in filter(None, (family, measured)):
        assert one.name == name
        assert issubclass(one.options, Options)
        assert {field.name for field in fields(one.options)} == {*one.options.table(), "flags_given"}
    assert family.asked_by is None or family.asked_by in family.options.table()
    assert family.asked_by is None or family.mode == f"--{family.asked_by}"
    finetuner = family.finetuner()
    assert finetuner is None or isinstance(finetuner, Finetuner)
    if finetuner is not None:
        assert finetuner.metrics
        assert finetuner_of(name).metrics == finetuner.metrics
    assert measured is None or VIEWS[name] == measured.view


def test_all_tables_have_the_same_families() -> None:
    assert list(BENCHMARKS) == list(VIEWS) == [name for name in NAMES if name != "judgement"]  # evaluated alone
    assert {name for name in Result.model_fields if name in FAMILIES} == {*BENCHMARKS} == {*SECTIONS}
    for name in BENCHMARKS:
        section = next(kind for kind in get_args(Result.model_fields[name].annotation) if kind is not type(None))
        assert issubclass(section, Section)
    assert {name for name in NAMES if FAMILIES[name].finetuner()} == {*get_args(TaskName)}
    with pytest.raises(UsageError, match="task=classification: cannot be fine-tuned; there is: retrieval, matching"):
        finetuner_of("classification")


@pytest.mark.parametrize("name", NAMES)
def test_a_family_evaluates_what_it_predicts(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    family = family_of(case.given, str(case.data))
    assert family.name == name
    options = family.options.read(case.given)
    data, loaded = family.open_dataset(str(case.data), options), family.load(str(case.model), options)
    first, second = (family.predict(loaded, data, options) for _ in range(2))
    assert type(first) is type(second)
    report = family.evaluate(loaded, data, options)
    assert isinstance(report, Report)
    assert report.metrics is report.values[name]
    assert report.unreadable == []
    assert family.table(report.metrics)
    again = family.run(str(case.model), str(case.data), options)
    assert again.metrics == report.metrics


def test_two_families_cannot_be_asked_for_at_once() -> None:
    with pytest.raises(UsageError, match="--generate and --captions are two tasks; give one of them"):
        family_of({"captions": True, "generate": True}, "pairs.jsonl")


# --- every option has a reader, and is refused where it has none

COMMANDS: list[tuple[Callable[..., None], dict[str, Any]]] = [(evaluate, FAMILIES), (benchmark, BENCHMARKS)]


@pytest.mark.parametrize(("verb", "families"), COMMANDS, ids=["evaluate", "benchmark"])
def test_flags_are_the_options_of_the_families(verb: Callable[..., None], families: dict[str, Any]) -> None:
    of_all = {"context", "model", "data", "out", "json_file", "as_json"}
    of_all |= {"context_length", "setting", "devices", "export"}
    own = inspect.signature(verb).parameters.keys() - of_all
    read = {name for family in families.values() for name in family.options.table()}
    assert own - read == ({"seed"} if verb is benchmark else set())  # of the intervals of all families
    assert read <= own


def test_families_that_share_an_option_say_the_same_of_it() -> None:
    for families in (FAMILIES, BENCHMARKS):
        flags: dict[str, Any] = {}
        for family in families.values():
            for name, option in family.options.table().items():
                assert flags.setdefault(name, option.flag) == option.flag, name


ASKS = [family.asked_by for family in FAMILIES.values() if family.asked_by]
FLAGS = {option: shown.flag for family in FAMILIES.values() for option, shown in family.options.table().items()}
UNREAD = [
    (name, option)
    for name, family in FAMILIES.items()
    for option in FLAGS
    if option not in family.options.table() and option not in ASKS
]


@pytest.mark.parametrize(("name", "option"), UNREAD)
def test_an_option_that_a_family_does_not_read_is_refused_by_name(
    name: str, option: str, command: Command, cases: dict[str, Case]
) -> None:
    case, flag = cases[name], FLAGS[option].written(option, value=True)
    values = [str(value).replace("{}", str(case.data.parent)) for value in VALUES.get(option, (2,))]
    outcome = command("evaluate", *case.arguments(), flag, *values)
    assert outcome.code == 2
    shown = next(one.options.table()[option].flag for one in FAMILIES.values() if option in one.options.table())
    assert outcome.err.startswith(f"ccmb: {shown.written(option, True)} is of ")
    assert f"and does nothing with {FAMILIES[name].mode}; leave it out" in outcome.err


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ASKS)
def test_an_option_that_asks_for_a_family_gets_it_or_is_refused(name: str, option: str, cases: dict[str, Case]) -> None:
    asked, data = {**cases[name].given, option: True}, str(cases[name].data)
    if FAMILIES[name].asked_by in (None, option):
        assert family_of(asked, data).asked_by == option
        return
    with pytest.raises(UsageError, match="are two tasks; give one of them") as refused:
        family_of(asked, data)
    assert f"--{option}" in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_known_to_be_given_whatever_its_value(name: str) -> None:
    options = FAMILIES[name].options
    for option, (_, default, flag) in options.table().items():
        read = options.read({option: default})
        assert read.is_given(option)
        assert read.flags_given[option].startswith("--")
        with pytest.raises(UsageError, match=f"{read.flags_given[option]} is of no use; leave it out"):
            read.refuse("of no use", option)
        assert not options().is_given(option)
        assert flag.help
