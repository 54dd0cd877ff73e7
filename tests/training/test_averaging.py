"""The moving average of a training's weights: what it is, that it goes on exactly, and the finished model is it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ccmb.core.errors import CcmbError, Stopped
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.towers.stillness import freeze
from ccmb.training.averaging import AveragedWeights, move_average, warmed_up
from ccmb.training.checkpoints import load_checkpoint
from ccmb.training.model_selection import read_best
from ccmb.training.parallel import full_state_dict
from ccmb.training.trainer import Trainer
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.processes import run_in_processes
from tests.helpers.short_training import recipe_with, state_of, train, two_layers
from tests.helpers.toy_training import STEPS, Toy, assert_same_run, make, run, send
from tests.helpers.tuning import save_pairs, save_start, tuned

pytestmark = PROOFS

DECAY = {"model_ema_decay": 0.75}


def test_an_average_moves_by_its_rate_and_rests_where_it_is_right() -> None:
    averages = [torch.tensor([1.0, 2.0]), torch.tensor(0.1)]
    move_average(averages, [torch.tensor([3.0, 2.0]), torch.tensor(0.1)], 0.75)
    assert averages[0].tolist() == [1.5, 2.0]
    assert float(averages[1]) == 0.1


def test_the_rate_warms_up() -> None:
    assert [warmed_up(0.9, updates) for updates in (1, 2, 90, 10**6)] == same([2 / 11, 3 / 12, 0.9, 0.9])
    assert warmed_up(0.1, 1) == 0.1


def test_exchanging_twice_changes_no_bit() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = AveragedWeights(module, 0.9)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
        module[1].running_mean.fill_(7.0)
    raw = {name: value.clone() for name, value in module.state_dict().items()}
    with average.applied():
        for name, value in module.named_parameters():
            assert torch.equal(value, start[name])
        assert module[1].running_mean.tolist() == [7.0] * 4  # the latest
    for name, value in module.state_dict().items():
        assert torch.equal(value, raw[name]), name


def plain_average(out: Path, **options: Any) -> tuple[dict[str, torch.Tensor], Trainer]:
    """The average by its definition, of the checkpoints of a run without one."""
    trainer = run(out, checkpoint_every=1, save_total_limit=STEPS + 1, **options)
    average = {name: parameter.detach() for name, parameter in make(out / "start").task.module.named_parameters()}
    for step in range(1, STEPS + 1):
        weights = load_checkpoint(out / "checkpoints", step)["module"]
        rate = min(0.75, (1 + step) / (10 + step))
        average = {name: rate * value + (1 - rate) * weights[name] for name, value in average.items()}
    return average, trainer


@pytest.mark.parametrize("muon", [None, 2.0])
def test_it_is_the_average_of_all_steps_and_leaves_the_training_as_it_is(tmp_path: Path, muon: float | None) -> None:
    expected, plain = plain_average(tmp_path / "plain", muon=muon)
    averaged = run(tmp_path / "averaged", muon=muon, **DECAY)
    assert_same_run(plain, averaged)
    assert_same(averaged.average.state_dict(), expected)
    assert_same(load_checkpoint(tmp_path / "averaged" / "checkpoints", STEPS)["average"], expected)
    assert "average" not in load_checkpoint(tmp_path / "plain" / "checkpoints", STEPS)
    averaged.finish()
    assert_same(dict(averaged.task.module.named_parameters()), expected)
    assert float(averaged.task.module.seen) == STEPS


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert trainer.average is not None
    return trainer.average.state_dict()


@pytest.mark.parametrize("stop", [0, 4, 7, STEPS - 2])
def test_stopping_and_going_on_gives_the_same_average_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole = run(tmp_path / "whole", **DECAY)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", {stop: send(signal.SIGTERM)}, **DECAY)
    parts = run(tmp_path / "parts", **DECAY)
    assert_same_run(whole, parts)
    for name, value in state(whole).items():
        assert torch.equal(value, state(parts)[name]), name


def test_a_checkpoint_without_an_average_is_of_another_run(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(CcmbError, match=r"checkpoint 12 is of another network \('average'\)"):
        run(tmp_path / "run", **DECAY)


def test_the_average_is_what_is_validated_and_the_best_of_it_is_the_finished_model(tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def validate(module: Toy) -> dict[str, float]:
        step = int(module.seen)
        seen[step] = {name: value.detach().clone() for name, value in module.named_parameters()}
        return {"error": abs(step - 6.0)}

    best = {"metric": "val_error", "mode": "min"}
    trainer = run(tmp_path / "run", validate=validate, best=best, save_total_limit=1, **DECAY)
    for name, value in run(tmp_path / "plain").task.module.state_dict().items():  # validation puts the raw ones back
        assert torch.equal(value, trainer.task.module.state_dict()[name])
    assert read_best(tmp_path / "run" / "checkpoints")["step"] == 6
    saved = load_checkpoint(tmp_path / "run" / "checkpoints", 6)
    assert not torch.equal(saved["module"]["head.weight"], saved["average"]["head.weight"])
    trainer.finish()
    for name, value in trainer.task.module.named_parameters():
        assert torch.equal(value, saved["average"][name])
        assert torch.equal(value, seen[6][name])
    again = make(tmp_path / "run", validate=validate, best=best, save_total_limit=1, **DECAY)
    assert again.resume() == STEPS  # the run is over, and its command is given again
    again.finish()
    for name, value in again.task.module.named_parameters():
        assert torch.equal(value, saved["average"][name])


def test_frozen_weights_and_the_teacher_have_no_average(tmp_path: Path) -> None:
    model = two_layers()
    freeze(model.text_tower, 1, "text")
    trainer = train(tmp_path, recipe_with(training=DECAY), model)
    assert set(state(trainer)) == {f"model.{name}" for name, p in model.named_parameters() if p.requires_grad}
    assert not any("text_tower.encoder.layer.0" in name or name.startswith("teacher") for name in state(trainer))


def with_strategies(folder: Path) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for strategy in ("ddp", "fsdp"):
        recipe = recipe_with(training=DECAY | {"parallel": strategy})
        train(folder / strategy, recipe, stop=3)
        trainer = train(folder / strategy, recipe)  # from a checkpoint
        assert trainer.average is not None
        average = {name: value.clone() for name, value in full_state_dict(trainer.average.state_dict()).items()}
        trainer.finish()
        results[strategy] = {"average": average, "finished": state_of(trainer)}
    return results


def test_two_processes_keep_the_average_of_one(tmp_path: Path) -> None:
    one = with_strategies(tmp_path / "one")["ddp"]
    assert all(torch.equal(value, one["finished"][name]) for name, value in one["average"].items())
    for rank in run_in_processes(2, with_strategies, tmp_path, tmp_path / "two"):
        for result in rank.values():
            assert_same(result, one)


def test_the_model_folder_of_a_run_holds_the_average(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "data")
    tuned(start, data, tmp_path / "run", training__model_ema_decay=0.9)
    step = (read_best(tmp_path / "run" / "checkpoints") or {})["step"]
    average = load_checkpoint(tmp_path / "run" / "checkpoints", step)["average"]
    model, _ = load_model(tmp_path / "run")
    for name, value in model.named_parameters():
        if f"model.{name}" in average:
            assert torch.equal(value, average[f"model.{name}"]), name
    assert {f"model.{name}" for name, _ in model.named_parameters()} >= set(average)
    assert len(average) > 20
    assert "| weights | moving average of decay 0.9 |" in (tmp_path / "run" / "model" / "README.md").read_text()
