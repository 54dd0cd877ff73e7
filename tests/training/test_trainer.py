"""The training loop on a toy task: exact resume after any stop, and clear ends."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ccmb.core.device import choose_device, inference
from ccmb.core.errors import CcmbError, Stopped
from ccmb.training.checkpoints import list_checkpoints
from tests.helpers.disk import full_disk
from tests.helpers.processes import run_in_a_process
from tests.helpers.toy_training import STEPS, assert_same_run, batches, losses_of, make, run, send


@pytest.mark.parametrize(("precision", "muon"), [("fp32", None), ("bf16", None), ("fp32", 2.0)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop", [0, 4, 7, STEPS - 2])
def test_stopping_and_going_on_equals_never_stopping(tmp_path, precision, muon, number, stop):
    whole = run(tmp_path / "whole", precision=precision, muon=muon)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=f"stopped at step {stop + 1}; run the same command again to go on") as caught:
        run(tmp_path / "parts", {stop: send(number)}, precision=precision, muon=muon)
    assert caught.value.exit_code == (0 if number == signal.SIGTERM else 130)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1] == stop + 1
    assert_same_run(whole, run(tmp_path / "parts", precision=precision, muon=muon))


def run_and_die_in_a_step(out: Path) -> None:
    run(out, {8: send(signal.SIGKILL)})


def run_and_die_while_saving(out: Path) -> None:
    replace, kill = os.replace, send(signal.SIGKILL)
    os.replace = lambda old, new: kill() if "step-10" in str(new) else replace(old, new)
    run(out)


def test_a_run_killed_in_a_step_and_while_saving_ends_as_never_stopped(tmp_path):
    for moment in (run_and_die_in_a_step, run_and_die_while_saving):
        ended = run_in_a_process(moment, tmp_path / "parts")
        assert ended.code == -signal.SIGKILL, ended.err
        assert list_checkpoints(tmp_path / "parts" / "checkpoints") == [5]
    assert losses_of(tmp_path / "parts")[-1]["step"] == 10
    assert_same_run(run(tmp_path / "whole"), run(tmp_path / "parts"))


def test_a_stop_in_the_last_step_finishes_the_run(tmp_path):
    trainer = run(tmp_path / "run", {STEPS - 1: send(signal.SIGTERM)})
    assert trainer.step == STEPS
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1] == STEPS


def test_a_second_signal_interrupts_at_once_and_saves_nothing(tmp_path):
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", {3: twice})
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_training_works_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1] == STEPS


def test_a_loss_that_is_not_a_number_stops_with_its_name_and_keeps_the_weights(tmp_path):
    trainer = make(tmp_path / "run", {7: "nan"})
    with pytest.raises(CcmbError, match=r"step 7: the loss is not finite \(square nan, size nan\); lower"):
        trainer.fit(batches)
    assert all(value.isfinite().all() for value in trainer.task.module.state_dict().values())
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [5]
    nonfinite_step = json.loads((tmp_path / "run" / "stopped" / "step-7.json").read_text())
    assert nonfinite_step == {"step": 7, "losses": {"square": "nan", "size": "nan"}, "gradient_norm": "nan", "seed": 7}


@pytest.mark.parametrize(("value", "what"), [("inf", "loss"), ("steep", "gradient")])
def test_an_infinite_loss_or_gradient_stops_too(tmp_path, monkeypatch, value, what):
    def total(losses: dict[str, Tensor]) -> Tensor:
        if value == "inf":
            losses["square"] = losses["square"] + float("inf")  # whose gradient is finite
        # The root's slope at 0 is infinite, its value is not.
        return losses["square"] if value == "inf" else (losses["size"] * 0).sqrt()

    trainer = make(tmp_path / "run")
    monkeypatch.setattr(trainer.task, "total", total)
    with pytest.raises(CcmbError, match=rf"step 0: the {what} is not finite .*its batch is in .*step-0\.json"):
        trainer.fit(batches)
    assert all(value.isfinite().all() for value in trainer.task.module.state_dict().values())


def test_metrics_stand_at_every_logged_step_and_the_last(tmp_path):
    run(tmp_path / "run", steps=11, log_every=4)
    lines = losses_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 8, 11]
    assert set(lines[0]) == {"step", "loss", "square", "size", "seen", "gradient_norm", "lr"}
    whole = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(whole) - set(lines[0]) == {"samples_per_second", "data_wait", "memory_gb"}
    assert lines[0]["loss"] == pytest.approx(lines[0]["square"] + 0.1 * lines[0]["size"])


def test_resuming_drops_metrics_of_undone_steps_and_broken_lines(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(CcmbError, match="stopped"):
        run(tmp_path / "run", {5: send(signal.SIGINT)})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "loss": 1.0}\n[8]\n\n{"step": 1')
    assert make(tmp_path / "run").resume() == 6
    assert [line["step"] for line in losses_of(tmp_path / "run")] == [2, 4, 6]
    assert_same_run(whole, run(tmp_path / "run"))


def test_a_full_disk_stops_with_one_line(tmp_path):
    trainer = make(tmp_path / "run")
    with full_disk(300), pytest.raises(CcmbError, match=r"metrics\.jsonl: could not be written|checkpoints .* intact"):
        trainer.fit(batches)


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path):
    run(tmp_path / "run")
    trainer = make(tmp_path / "run")
    trainer.task.module.head = nn.Linear(8, 2)
    with pytest.raises(CcmbError, match=r"run: checkpoint 12 is of another network \(.*head") as caught:
        trainer.resume()
    assert "\n" not in str(caught.value)


def test_the_loss_falls(tmp_path):
    run(tmp_path / "run", steps=150)
    lines = losses_of(tmp_path / "run")
    assert lines[-1]["square"] < 0.7 * lines[0]["square"]


def test_a_group_that_starts_late_keeps_its_weights_until_then(tmp_path):
    with pytest.raises(CcmbError, match="stopped"):
        run(tmp_path / "run", {2: send(signal.SIGINT)})
    trainer = make(tmp_path / "run")
    before = {name: value.clone() for name, value in trainer.task.module.state_dict().items()}
    trainer.resume()
    after = trainer.task.module.state_dict()
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["layer.0.weight"], after["layer.0.weight"])


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(CcmbError, match=rf"training\.device={name}"):
        choose_device(name)


def test_inference_restores_the_mode():
    module = nn.Linear(2, 2).train()
    with inference(module):
        assert not module.training
        assert module(torch.ones(1, 2)).is_inference()
    assert module.training
