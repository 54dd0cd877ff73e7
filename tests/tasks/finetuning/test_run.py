"""Fine-tuning: it learns, keeps the best by validation alone, goes on after any stop, and says what it cost."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json, read_json_lines
from ccmb.r2d2.loading import load_model
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from ccmb.tasks.finetuning.run import finetune, resolve
from ccmb.tasks.pretraining import states_pass
from ccmb.tasks.registry import finetuner_of
from ccmb.training.checkpoints import list_checkpoints, load_checkpoint
from ccmb.training.recipe import TrainingRecipe
from ccmb.training.throughput import MEASURED
from tests.helpers.exact import PROOFS, same
from tests.helpers.killing import die_after_logging
from tests.helpers.processes import ccmb
from tests.helpers.runs import Command, command_line
from tests.helpers.sources import save_chinese_clip
from tests.helpers.tiny import TEXTS
from tests.helpers.tuning import arguments, recipe_of, save_pairs, save_start, tuned

pytestmark = PROOFS


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(tmp_path_factory.mktemp("data") / "mine")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, start: Path, data: Path) -> tuple[Path, dict[str, Any]]:
    """A whole run with everything that can be measured."""
    out = tmp_path_factory.mktemp("runs") / "run"
    also = [(f"words={data / 'pairs.jsonl'}", "val", ["words"])]
    report = finetune(recipe_of(start, data), out, also, test=True, mixes=True)
    assert report is not None
    return out, report


def log_of(run: Path) -> list[dict[str, Any]]:
    lines = [line for _, line in read_json_lines(run / "metrics.jsonl")]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def test_frozen_towers_are_read_from_the_cache(
    start: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(states_pass, "STORED_AS", torch.float64)
    options = {"model__freeze": "{image: all, text: all}", "data__augmentation__num_views": 2, "training__steps": 8}
    runs = {}
    for setting in ("on", "off"):
        tuned(start, data, tmp_path / setting, **options, training__frozen_states=setting)
        runs[setting] = log_of(tmp_path / setting)
        assert (tmp_path / "cache").exists()
    for stored, computed in zip(runs["on"], runs["off"], strict=True):
        assert stored == same(computed)


def test_some_steps_raise_recall_on_images_that_were_not_trained_on(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    assert [(entry["name"], entry["split"]) for entry in report["sets"]] == [
        ("mine", "val"),
        ("mine", "test"),
        ("words", "val"),
    ]
    for entry in report["sets"][:2]:
        for metric in entry["figures"].values():
            assert metric["gain"]["low"] > 10  # of 9 seeds the worst is 19.8
            difference = metric["after"]["value"] - metric["before"]["value"]
            assert metric["gain"]["value"] == pytest.approx(difference, abs=0.011)  # of rounded ones
            for side in ("before", "after"):
                assert metric[side]["low"] <= metric[side]["value"] <= metric[side]["high"]
    assert report == read_json(out / "finetune.json")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{report['sets'][0]['figures']['ranking']['after']['value']:.1f}" in page
    assert "rose" in page
    assert "| text to image | ranking |" in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_the_finished_model_is_the_best_by_validation_and_is_measured_as_it_was_chosen(
    start: Path, data: Path, tmp_path: Path
) -> None:
    # The lowest recall counts as the best: it rises, so that this is not the last whatever the seed and the processor.
    out = tmp_path / "run"
    report = tuned(start, data, out, training__best="{metric: val_mean_recall, mode: min}")
    validated = {line["step"]: line["val_mean_recall"] for line in log_of(out) if "val_mean_recall" in line}
    assert list(validated) == [8, 16, 24]
    best = min(validated, key=lambda step: (validated[step], step))
    assert best < 24  # else this shows nothing
    assert report["chosen"] == {"step": best, "figure": "val_mean_recall", "value": validated[best]}
    assert report["sets"][0]["figures"]["ranking"]["after"]["value"] == validated[best]
    weights = load_file(out / "model" / "model.safetensors")
    kept, last = (load_checkpoint(out / "checkpoints", step)["module"] for step in (best, 24))
    assert all(torch.equal(tensor, kept[f"model.{name}"]) for name, tensor in weights.items())
    assert not all(torch.equal(tensor, last[f"model.{name}"]) for name, tensor in weights.items())


def test_between_the_models_are_shares_whose_ends_are_both(finished: tuple[Path, dict[str, Any]]) -> None:
    for entry in finished[1]["sets"]:
        for metric in entry["figures"].values():
            assert list(metric["shares"]) == ["0", "0.25", "0.5", "0.75", "1"]
            assert metric["shares"]["0"] == metric["before"]
            assert metric["shares"]["1"] == metric["after"]


def test_the_same_command_again_changes_nothing_and_more_to_measure_does_not_train_again(
    start: Path, data: Path, tmp_path: Path
) -> None:
    report = tuned(start, data, tmp_path / "run", training__steps=8)
    kept = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.jsonl", "finetune.json", "recipe.yaml")}
    weights, card = (tmp_path / "run" / "model" / name for name in ("model.safetensors", "README.md"))
    before = weights.read_bytes(), card.read_bytes()
    assert tuned(start, data, tmp_path / "run", training__steps=8) == report
    assert {name: (tmp_path / "run" / name).read_bytes() for name in kept} == kept
    assert (weights.read_bytes(), card.read_bytes()) == before
    more = finetune(recipe_of(start, data, training__steps=8), tmp_path / "run", test=True)
    assert more is not None
    assert [entry["split"] for entry in more["sets"]] == ["val", "test"]
    assert more["sets"][0] == report["sets"][0]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == kept["metrics.jsonl"]
    with pytest.raises(CcmbError, match="holds a run of another recipe"):
        tuned(start, data, tmp_path / "run", training__steps=9)


def test_killed_after_a_validation_it_ends_with_the_same_metrics_choice_and_weights(
    start: Path, data: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    run, (whole, report) = tmp_path / "run", finished
    words = ["finetune", "retrieval", *arguments(data), "--model", start, "--out", run]
    # It dies at once after validating at step 16: what is saved is step 8.
    assert ccmb(*words, prepare=partial(die_after_logging, 16)).code == -signal.SIGKILL
    assert list_checkpoints(run / "checkpoints") == [8]
    assert log_of(run)[-1]["step"] == 16
    again = ccmb(*words)
    assert again.code == 0, again.err
    assert log_of(run) == log_of(whole)
    for name in ("recipe.yaml", "checkpoints/best.json", "model/model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    [entry] = read_json(run / "finetune.json")["sets"]
    assert {name: metric["after"] for name, metric in entry["figures"].items()} == {
        name: metric["after"] for name, metric in report["sets"][0]["figures"].items()
    }


def test_two_processes_validate_and_choose_as_one_does(
    start: Path, data: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    words = ["finetune", "retrieval", *arguments(data), "--model", start, "--out", tmp_path / "run"]
    done = ccmb(*words, processes=2)
    assert done.code == 0, done.err
    for resumed, its in zip(log_of(tmp_path / "run"), log_of(finished[0]), strict=True):
        assert resumed.keys() == its.keys()
        assert resumed["loss"] == pytest.approx(its["loss"], rel=1e-6)
        assert resumed.get("val_mean_recall") == its.get("val_mean_recall")
    assert read_json(tmp_path / "run" / "finetune.json")["chosen"]["step"] == finished[1]["chosen"]["step"]


@pytest.mark.parametrize("frozen", ["off", "on"])
def test_validation_changes_nothing_of_the_training(frozen: str, data: Path, tmp_path: Path) -> None:
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tower | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "attention_dropout": 0.5}
    model = save_start(tmp_path / "model", vision_config=vision, cross_dropout=0.1)  # chance in all places
    options = {"model__freeze_image_tower": frozen, "training__steps": 6, "training__log_every": 1}
    for every in (0, 2):
        tuned(model, data, tmp_path / str(every), **options, validation__every=every)
    without, validated = (log_of(tmp_path / name) for name in ("0", "2"))
    assert [line["step"] for line in validated if "val_mean_recall" in line] == [2, 4, 6]
    assert [{key: line[key] for key in line if "val_" not in key} for line in validated] == without
    states = [load_checkpoint(tmp_path / name / "checkpoints", 6)["module"] for name in ("0", "2")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_epochs_are_passes_over_all_texts_and_become_steps() -> None:
    for texts, batch, epochs, steps in ((1000, 10, 3, 300), (1009, 10, 3, 300), (1000, 10, 0.5, 50), (5, 10, 2, 2)):
        training = TrainingRecipe(epochs=epochs, batch_size=batch)
        assert training.steps == 0
        assert training.in_steps(texts) == TrainingRecipe(steps=steps, batch_size=batch)
    assert TrainingRecipe(steps=7).in_steps(1000) == TrainingRecipe(steps=7)


def test_the_saved_recipe_is_resolved(start: Path, data: Path, tmp_path: Path) -> None:
    tuned(start, data, tmp_path / "run", training__epochs=2, training__steps=None, validation__every=None)
    saved = load_recipe(FinetuneRecipe, tmp_path / "run" / "recipe.yaml")
    assert (saved.training.epochs, saved.training.steps) == (None, 2 * (2 * len(TEXTS) // 8))
    assert saved.validation.every == 2 * len(TEXTS) // 8
    assert saved.training.best is not None
    assert (saved.training.best.metric, saved.training.best.mode) == ("val_mean_recall", "max")
    assert [line["step"] for line in log_of(tmp_path / "run") if "val_mean_recall" in line] == [2, 4]


def test_what_the_user_says_of_the_best_stays(start: Path, data: Path) -> None:
    recipe = recipe_of(start, data, training__best="gcpr")
    family = finetuner_of("retrieval")
    samples, _ = family.open_training(recipe.data)
    assert resolve(recipe, family, samples).training.best == recipe.training.best
    off = resolve(recipe_of(start, data, validation__every=0), family, samples)
    assert off.training.best is None


def test_without_validation_the_last_weights_are_the_model_and_nothing_is_measured(start: Path, tmp_path: Path) -> None:
    data = save_pairs(tmp_path / "data", splits=("train",))
    report = tuned(start, data, tmp_path / "run", validation__split="", training__steps=4)
    assert (report["sets"], report["chosen"]) == ([], None)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    last = load_checkpoint(tmp_path / "run" / "checkpoints", 4)["module"]
    assert all(torch.equal(tensor, last[f"model.{name}"]) for name, tensor in weights.items())


def test_validation_may_be_limited_to_the_first_images(start: Path, data: Path, tmp_path: Path) -> None:
    report = tuned(start, data, tmp_path / "run", validation__images=3, training__steps=2)
    assert report["sets"][0]["details"]["after"]["gallery"] == 3
    assert report["sets"][0]["details"]["after"]["texts"] == 6


def test_a_frozen_image_tower_stays_as_it_was(start: Path, data: Path, tmp_path: Path) -> None:
    tuned(start, data, tmp_path / "run", model__freeze_image_tower="on", training__steps=4, validation__every=0)
    before, after = (load_model(folder)[0].state_dict() for folder in (start, tmp_path / "run"))
    changed = {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert "image_tower" not in changed
    assert {"text_tower", "image_projection", "text_image_encoder", "image_text_encoder"} <= changed


@pytest.mark.usefixtures("float32")  # as its weights are
def test_from_chinese_clip_only_what_it_has_is_measured_before(data: Path, tmp_path: Path) -> None:
    save_chinese_clip(tmp_path / "clip")
    changes = {"model__cross_layers": 1, "model__max_text_tokens": 16, "training__steps": 2}
    report = tuned(tmp_path / "clip", data, tmp_path / "run", **changes)
    metrics = report["sets"][0]["figures"]
    assert metrics["ranking"]["before"] is metrics["ranking"]["gain"] is None
    assert metrics["pre_ranking"]["before"] is not None
    assert metrics["ranking"]["after"] is not None
    assert "had no such stage" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"validation__split": "dev"},
            CcmbError,
            r"no images in split 'dev'; it has: test, train, val; name another",
        ),
        ({"validation__split": "train"}, UsageError, "that is what is trained on"),
        ({"data__dataset": "muga"}, UsageError, r"no data set 'muga' \(did you mean 'muge'"),
        ({"data__dataset": "icm"}, CcmbError, "no .*long_itm_val|ICM is no set for retrieval"),
        ({"data__folder": "nowhere"}, CcmbError, "nowhere: no such folder"),
        ({"training__best": "val_recall"}, UsageError, r"val_recall: not in the log .*val_mean_recall"),
        ({"training__best": "val_mean_recall", "validation__every": 0}, UsageError, "not in the log"),
        ({"objectives__fgr": "off", "objectives__gcpr": "off"}, UsageError, "no objective"),
        ({"training__batch_size": 9}, CcmbError, r"pairs\.jsonl: 8 images do not fill training\.batch_size=9"),
    ],
)
def test_what_cannot_be_tuned_is_one_line_and_leaves_no_folder(
    changes: dict[str, Any], error: type[CcmbError], words: str, start: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as caught:
        tuned(start, data, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def test_the_verb_prints_a_table_or_json(command: Command, start: Path, data: Path, tmp_path: Path) -> None:
    run, pairs = tmp_path / "run", data / "pairs.jsonl"
    words = ["finetune", "retrieval", *arguments(data, training__steps=4), "--model", start, "--out", run]
    further = ["--also", f"words={pairs}", "--also-field", "words", "--mixes"]
    table = command(*words, *further)
    assert table.code == 0, table.err
    lines = table.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "mine val pre-ranking", "mine val ranking", "words val pre-ranking", "words val ranking"
    ]  # fmt: skip
    assert any(line.startswith("share of the weights after") and line.endswith("1") for line in lines)
    assert lines[-1] == f"model: {run / 'model'}"
    outcome = command(*words, *further, "--json")
    assert json.loads(outcome.out) == read_json(run / "finetune.json")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["retrieval"], 2, "nothing to start from; give --model"),
        (["retrieval", "--model", "nowhere"], 1, "nowhere"),
        (["retrievel"], 2, "did you mean 'retrieval'"),
        (["retrieval", "--also", "x=nowhere.jsonl", "--model", "START"], 1, "nowhere.jsonl"),
        (["retrieval", "training.epochs=3", "--model", "START"], 2, "give either training.steps or training.epochs"),
    ],
)
def test_a_wrong_command_is_one_line(
    words: list[str], code: int, message: str, command: Command, start: Path, data: Path, tmp_path: Path
) -> None:
    words = [str(start) if word == "START" else word for word in words]
    outcome = command("finetune", words[0], *arguments(data), *words[1:], "--out", tmp_path / "run")
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_shipped_recipes_are_listed(command: Command) -> None:
    outcome = command("finetune", "mugge", "--model", "x")
    assert "did you mean 'muge'" in outcome.err
    assert find_recipe("muge", FINETUNING) == FINETUNING / "muge.yaml"
