"""How a pre-training run ends early: exit codes, the line that is said, and what is kept of a bad batch."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json
from ccmb.objectives import pretraining
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import pretrain, save_model
from ccmb.training.checkpoints import list_checkpoints
from ccmb.training.distributed import world
from ccmb.training.trainer import Trainer
from tests.helpers.disk import full_disk
from tests.helpers.processes import run_in_processes
from tests.helpers.runs import command_line, tiny_corpus, tiny_recipe
from tests.helpers.tiny import tiny_model, tiny_processor


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(command, corpus, tmp_path, monkeypatch, number, code):
    log, run = Trainer._log, tmp_path / "run"

    def log_and_signal(self: Trainer, line: dict[str, float]) -> None:
        log(self, line)
        if self.step == 3:
            os.kill(os.getpid(), number)

    arguments = ["pretrain", *tiny_recipe(corpus, steps=5), "--out", run]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", log_and_signal)
        result = command(*arguments)
    assert result == (code, "", "ccmb: stopped at step 3; run the same command again to go on\n")
    assert list_checkpoints(run / "checkpoints") == [3]
    assert not (run / "model").exists()
    assert command(*arguments).code == 0
    assert (run / "model").exists()


def test_before_and_after_the_training_sigterm_is_an_orderly_end_too(command, corpus, tmp_path, monkeypatch):
    from ccmb.tasks.pretraining import run as task

    run, handler = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    arguments = ["pretrain", *tiny_recipe(corpus), "--out", run]
    for moment in ("build_model", "write_model_card"):
        with monkeypatch.context() as patch:
            patch.setattr(task, moment, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            assert command(*arguments) == (0, "", "ccmb: stopped; run the same command again to go on\n")
    assert list_checkpoints(run / "checkpoints") == [3]
    assert command(*arguments).code == 0
    assert (run / "model" / "README.md").exists()
    assert signal.getsignal(signal.SIGTERM) == handler


def train_with_an_infinite_loss_on_rank_1(corpus: Path, run: Path) -> str:
    """What the run ends with; its gradient is finite everywhere."""

    def losses(self, *arguments):
        values, aux = plain(self, *arguments)
        return values | {"gcpr": values["gcpr"] + (math.inf if world().rank else 0.0)}, aux

    plain = pretraining.PreTraining.forward
    name, *overrides = tiny_recipe(corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining.PreTraining, "forward", losses)
        try:
            pretrain(load_recipe(PretrainRecipe, find_recipe(name), overrides), run)
        except CcmbError as error:
            return str(error)
    return "ended"


def test_a_loss_that_is_infinite_on_one_rank_alone_stops_all(corpus, tmp_path):
    messages = run_in_processes(2, train_with_an_infinite_loss_on_rank_1, tmp_path, corpus, tmp_path / "run")
    assert messages[0].startswith("step 0: the loss of another process is not finite")
    assert messages[1].startswith("step 0: the loss is not finite (gcpr inf")


def test_a_loss_that_is_not_finite_leaves_its_batch(command, corpus, tmp_path, monkeypatch):
    gcpr, run, count = pretraining.gcpr_loss, tmp_path / "run", iter(range(9))

    def third_is_not_a_number(*arguments: torch.Tensor, **options: Any) -> torch.Tensor:
        return gcpr(*arguments, **options) * (float("nan") if next(count) == 2 else 1)

    monkeypatch.setattr(pretraining, "gcpr_loss", third_is_not_a_number)
    code, out, err = command("pretrain", *tiny_recipe(corpus, steps=5), "training.seed=7", "--out", run)
    path = run / "stopped" / "step-2.json"
    assert (code, out, err.count("\n")) == (1, "", 1)
    for words in ("step 2: the loss is not finite (gcpr nan", "lower optimizer.lr", str(path)):
        assert words in err
    nonfinite_step = read_json(path)
    assert (nonfinite_step["step"], nonfinite_step["seed"]) == (2, 7 * 1_000_003 + 2)
    assert nonfinite_step["losses"]["gcpr"] == "nan"
    lines = [json.loads(line) for line in (corpus / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    details = {line["image"]: line["details"] for line in lines}
    assert len(nonfinite_step["names"]) == len(nonfinite_step["texts"]) == len(nonfinite_step["image_ids"]) == 8
    assert all(
        text in details[name] for name, text in zip(nonfinite_step["names"], nonfinite_step["texts"], strict=True)
    )


def test_a_model_that_finds_no_room_is_one_line_and_leaves_the_one_before(tmp_path):
    folder = tmp_path / "model"
    save_model(folder, tiny_model(), tiny_processor())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for size in (100, 20_000):
        with full_disk(size), pytest.raises(CcmbError, match="model: could not be written") as caught:
            save_model(folder, tiny_model(seed=1), tiny_processor())
        assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_metric_of_the_best_checkpoint_must_be_one_that_is_logged(command, corpus, tmp_path):
    run = ["--out", tmp_path / "run"]
    code, _, err = command("pretrain", *tiny_recipe(corpus), "training.best=gcrp", *run)
    assert (code, err.count("\n")) == (2, 1)
    assert "training.best.metric=gcrp: not in the log of this run (did you mean 'gcpr'?); known: loss, gcpr" in err
    code, _, err = command("pretrain", *tiny_recipe(corpus), "training.best=fgr", "objectives.fgr=off", *run)
    assert code == 2
    assert "known: loss, gcpr, mlm, tgd, fgd, temperature, teacher_agreement, gradient_norm" in err
    assert not (tmp_path / "run").exists()
