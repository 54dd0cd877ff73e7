"""Event files: what TensorBoard shows of a run is what its log says, also after stops."""

import json
import signal
import sys

import pytest

from ccmb.training.metrics_log import event_files
from tests.helpers.disk import full_disk
from tests.helpers.toy_training import STEPS, run, send

pytestmark = pytest.mark.usefixtures("lines")


def shown(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(out) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_event_files_say_what_the_log_says_also_after_a_stop_and_a_crash(tmp_path):
    def crash() -> None:
        raise RuntimeError("crash")

    out = tmp_path / "run"
    with pytest.raises(RuntimeError):
        run(out, {8: crash})  # steps 6 and 8 are logged, and undone: the checkpoint is that of step 5
    with pytest.raises(Exception, match="stopped at step 7"):
        run(out, {6: send(signal.SIGTERM)})
    run(out)
    assert len(list((out / "tensorboard").iterdir())) == 3
    curves, lines = shown(out / "tensorboard"), logged(out)
    assert curves.keys() == lines[0].keys() - {"step"}
    for tag, points in curves.items():
        assert [step for step, _ in points] == list(range(2, STEPS + 1, 2))
        assert [value for _, value in points] == pytest.approx([line[tag] for line in lines], rel=1e-6)


def test_a_recipe_may_switch_event_files_off(tmp_path):
    run(tmp_path / "run", tensorboard=False)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_without_tensorboard_the_run_goes_on_and_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    run(tmp_path / "run")
    assert capsys.readouterr().err == (
        "ccmb: tensorboard is not installed, so there are no event files; pip install tensorboard\n"
    )
    assert logged(tmp_path / "run")[-1]["step"] == STEPS


def test_a_full_disk_ends_the_event_files_in_one_line(tmp_path, capsys):
    with event_files(tmp_path / "board", 0) as board:
        board({"step": 1, "loss": 1.0})
        with full_disk(100):
            board({"step": 2, "loss": 1.0})
            board({"step": 3, "loss": 1.0})
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "no more event files (File too large)" in errors
    assert shown(tmp_path / "board")["loss"] == [(1, 1.0)]


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    with event_files(tmp_path, 0) as board:
        board({"step": 1, "loss": float("nan"), "lr": 0.5})
    assert shown(tmp_path) == {"lr": [(1, 0.5)]}
