"""The best checkpoint: which one it is, that it stays, and that stops change nothing."""

import json
import signal

import pytest
from pydantic import ValidationError

from ccmb.core.errors import Stopped
from ccmb.training.checkpoints import list_checkpoints
from ccmb.training.model_selection import judge, read_best
from ccmb.training.recipe import BestRecipe, TrainingRecipe
from tests.helpers.toy_training import ToyTask, assert_same_run, losses_of, make, run, send

# The metric `seen` of the toy task at steps 2, 4, 6, 8, 10, 12: best at step 8 if lower is better.
SEEN = {2: 5.0, 4: 4.0, 6: 3.0, 8: 1.0, 10: 2.0, 12: 6.0}
OPTIONS = {"checkpoint_every": 2, "save_total_limit": 1, "best": {"metric": "seen"}}


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    monkeypatch.setattr(ToyTask, "report", lambda self, _: {"seen": SEEN[int(self.module.seen)]})


def checkpoints(out):
    return list_checkpoints(out / "checkpoints"), read_best(out / "checkpoints")


def test_the_best_stays_beside_the_newest_and_is_marked(tmp_path):
    run(tmp_path / "run", **OPTIONS)
    assert checkpoints(tmp_path / "run") == ([8, 12], {"step": 8, "figure": "seen", "value": 1.0})
    run(tmp_path / "higher", **OPTIONS | {"best": {"metric": "seen", "mode": "max"}})
    assert checkpoints(tmp_path / "higher") == ([12], {"step": 12, "figure": "seen", "value": 6.0})
    run(tmp_path / "none", **OPTIONS | {"best": None})
    assert checkpoints(tmp_path / "none") == ([12], None)


@pytest.mark.parametrize("stop", [6, 7, 8, 9])
def test_a_stop_changes_nothing(tmp_path, stop):
    with pytest.raises(Stopped):
        run(tmp_path / "run", {stop: send(signal.SIGTERM)}, **OPTIONS)
    run(tmp_path / "run", **OPTIONS)
    assert checkpoints(tmp_path / "run")[1] == {"step": 8, "figure": "seen", "value": 1.0}
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [8, 12]


def test_death_between_saving_and_judging_loses_no_mark(tmp_path, monkeypatch):
    from ccmb.training import trainer

    def die_at_8(*arguments: object) -> bool:
        if arguments[2] == 8:
            raise SystemExit
        return judge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "judge", die_at_8)
        with pytest.raises(SystemExit):
            run(tmp_path / "run", **OPTIONS)
    assert read_best(tmp_path / "run" / "checkpoints")["step"] == 6
    run(tmp_path / "run", **OPTIONS)
    assert checkpoints(tmp_path / "run") == ([8, 12], {"step": 8, "figure": "seen", "value": 1.0})


def test_a_damaged_best_checkpoint_is_no_longer_the_best(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", {7: send(signal.SIGTERM)}, **OPTIONS | {"save_total_limit": 2})
    (tmp_path / "run" / "checkpoints" / "step-8" / "state.pt").write_bytes(b"cut")
    run(tmp_path / "run", **OPTIONS | {"save_total_limit": 2})
    assert checkpoints(tmp_path / "run") == ([8, 10, 12], {"step": 8, "figure": "seen", "value": 1.0})


def test_a_checkpoint_is_judged_by_the_mean_of_its_last_steps(tmp_path):
    log, folder = tmp_path / "metrics.jsonl", tmp_path / "checkpoints"
    values = [9.0, 1.0, 5.0, 4.0, 5.0, float("nan"), 3.0, 7.0]
    log.write_text("".join(json.dumps({"step": n, "gcpr": v}) + "\n" for n, v in enumerate(values, start=1)))
    rule = BestRecipe(metric="gcpr")
    assert judge(folder, log, 4, 2, rule)
    assert read_best(folder)["value"] == 4.5
    assert judge(folder, log, 2, 2, rule) is False  # 5.0
    assert judge(folder, log, 7, 2, rule)  # what is not finite is left out: 3.0
    assert judge(folder, log, 8, 2, rule) is False
    assert judge(folder, log, 8, 2, BestRecipe(metric="gone")) is False
    assert read_best(folder) == {"step": 7, "figure": "gcpr", "value": 3.0}


def test_the_recipe_takes_a_metric_alone():
    assert TrainingRecipe(steps=1, best="gcpr").best == BestRecipe(metric="gcpr", mode="min")
    with pytest.raises(ValidationError):
        TrainingRecipe(steps=1, best={"metrc": "gcpr"})


# By held-out data: the best is step 6, which no checkpoint_every asks for.
DISTANCE = {3: 5.0, 6: 1.0, 9: 2.0, 12: 1.5}
CHOSEN = {"save_total_limit": 1, "checkpoint_every": 100, "best": {"metric": "val_distance"}}


def distance(module):
    module.eval()  # as whatever measures does
    return {"distance": DISTANCE[int(module.seen)]}


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(ToyTask, "report", lambda self, _: {})


@pytest.mark.usefixtures("plain")
def test_held_out_data_is_measured_every_few_steps_and_at_the_end(tmp_path):
    run(tmp_path / "run", validate=distance, log_every=5, checkpoint_every=100)
    lines = {line["step"]: line.get("val_distance") for line in losses_of(tmp_path / "run")}
    assert lines == {3: 5.0, 5: None, 6: 1.0, 9: 2.0, 10: None, 12: 1.5}
    assert checkpoints(tmp_path / "run") == ([12], None)


@pytest.mark.usefixtures("plain")
def test_the_best_by_held_out_data_is_kept_and_gone_back_to(tmp_path):
    trainer = run(tmp_path / "run", validate=distance, **CHOSEN)
    assert checkpoints(tmp_path / "run") == ([6, 12], {"step": 6, "figure": "val_distance", "value": 1.0})
    assert trainer.task.module.seen == 12
    trainer.finish()
    assert trainer.task.module.seen == 6


@pytest.mark.usefixtures("plain")
def test_a_metric_of_the_training_chooses_a_checkpoint_but_no_model(tmp_path):
    trainer = run(tmp_path / "run", validate=distance, **CHOSEN | {"best": {"metric": "square"}, "checkpoint_every": 4})
    trainer.finish()
    assert trainer.task.module.seen == 12


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("stop", [2, 4, 5, 6, 8, 10])
def test_a_stop_changes_no_validation_and_no_choice(tmp_path, stop):
    whole = run(tmp_path / "whole", validate=distance, **CHOSEN)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", {stop: send(signal.SIGTERM)}, validate=distance, **CHOSEN)
    assert_same_run(whole, run(tmp_path / "parts", validate=distance, **CHOSEN))
    assert checkpoints(tmp_path / "parts")[1] == checkpoints(tmp_path / "whole")[1]


@pytest.mark.usefixtures("plain")
def test_death_between_saving_and_judging_by_held_out_data_loses_no_mark(tmp_path, monkeypatch):
    from ccmb.training import trainer

    def die_at_6(*arguments: object) -> bool:
        if arguments[2] == 6:
            raise SystemExit
        return judge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "judge", die_at_6)
        with pytest.raises(SystemExit):
            run(tmp_path / "run", validate=distance, **CHOSEN)
    assert read_best(tmp_path / "run" / "checkpoints")["step"] == 3
    last = make(tmp_path / "run", validate=distance, **CHOSEN)
    assert last.resume() == 6
    assert read_best(tmp_path / "run" / "checkpoints") == {"step": 6, "figure": "val_distance", "value": 1.0}
