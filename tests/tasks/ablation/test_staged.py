"""An ablation of a recipe in stages: rungs reach into every stage, runs go on, and what is measured is their model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import UsageError
from ccmb.core.files import read_json, read_json_lines
from ccmb.r2d2.loading import load_model
from ccmb.tasks.ablation import run
from ccmb.tasks.ablation.ladder import Rung, default_ladder
from ccmb.tasks.ablation.plan import plan_runs, write_base
from ccmb.tasks.ablation.stages import objectives_of, reaching_stages, saved_step
from ccmb.tasks.pretraining import run as pretraining
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import in_stages
from ccmb.training.trainer import Trainer
from tests.helpers.ablation import InThisProcess
from tests.helpers.runs import Command, command_line, tiny_corpus
from tests.helpers.staged import STEPS, staged_recipe, staged_words

LADDER = "without: {objectives.fgr: off}\nall:\n"
# FGR in both stages, of which each gives keys of it; the second is counted in epochs.
IN_BOTH = [
    "stages.towers.objectives={fgr: {hardness: 0.25}, mlm: off, tgd: off, fgd: off}",
    "stages.heads.objectives={fgr: {weight: 2.0}}", "stages.heads.training.steps=", "stages.heads.training.epochs=0.25",
]  # fmt: skip


class Died(BaseException):
    """Ends a run as nothing catches it."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setattr("ccmb.tasks.ablation.processes.SECONDS_BETWEEN_LOOKS", 0.0)
    return command_line(monkeypatch, capfd)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [line for _, line in read_json_lines(folder / "metrics.jsonl")]


def test_rungs_reach_into_every_stage_and_stopped_runs_go_on(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, here, log = tmp_path / "out", InThisProcess(), Trainer._log
    (tmp_path / "ladder.yaml").write_text(LADDER)
    words = ["ablate", *staged_words(corpus, *IN_BOTH), "--out", out, "--seeds", 1, "--split", "test"]
    words += ["--ladder", tmp_path / "ladder.yaml", "--text-field", "captions"]
    monkeypatch.setattr(run, "starter", lambda base, lock: here.start)

    def die_in_the_second_stage(self: Trainer, line: dict[str, float]) -> None:
        log(self, line)
        if self.out.name.endswith("heads") and self.step == 2:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", die_in_the_second_stage)
        with pytest.raises(Died):
            command(*words)
    result = command(*words)
    assert result.code == 0, result.err
    assert here.started == ["without seed 0", "without seed 0", "all seed 0"]
    without, whole = (out / "runs" / name / "seed-0" for name in ("without", "all"))
    assert {line["stage"] for line in metrics_of(without)} == {line["stage"] for line in metrics_of(whole)}
    assert all("fgr" not in line for line in metrics_of(without))
    assert all("fgr" in line for line in metrics_of(whole))
    assert not load_model(without)[0].config.match_heads
    page = (out / "ablation.html").read_text(encoding="utf-8")
    assert "without/seed-0" in page
    assert str(out) not in page
    report = read_json(out / "ablation.json")
    assert [entry["objectives"] for entry in report["ladder"]] == [
        ["gcpr", "mlm", "tgd", "fgd"], ["gcpr", "fgr", "mlm", "tgd", "fgd"],
    ]  # fmt: skip
    rungs = report["fields"]["captions"]["rungs"]
    assert (rungs["without"]["ranking"], rungs["all"]["ranking"] is None) == (None, False)
    # A third call trains nothing and measures the same model; epochs of a stage have become steps in the run folders.
    (whole / "evaluation.json").unlink()
    (whole / "stages" / "2-heads" / "model" / "model.safetensors").unlink()
    again = command(*words)
    assert again.code == 0, again.err
    assert len(here.started) == 3
    assert read_json(out / "ablation.json")["fields"] == report["fields"]


def test_the_step_that_a_stopped_run_goes_on_from_is_counted_over_all_stages(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, save = staged_recipe(corpus, "training.checkpoint_every=2"), Trainer.save
    assert saved_step(recipe, tmp_path / "run") == 0

    def save_and_die(self: Trainer) -> None:
        save(self)
        if self.out.name.endswith("heads"):
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_and_die)
        with pytest.raises(Died):
            pretraining.pretrain(recipe, tmp_path / "run")
    assert saved_step(recipe, tmp_path / "run") == STEPS + 2


def test_an_override_reaches_a_stage_that_gives_its_key_but_switches_no_objective_on() -> None:
    recipe = load_recipe(PretrainRecipe, find_recipe("hub-towers"))
    overrides = ["objectives.fgr.weight=0.5", "model.freeze.image=4", "optimizer.warmup_steps=7", "training.steps=5"]
    reaching = reaching_stages(recipe, overrides)
    assert reaching == [
        overrides[0], overrides[3],  # both stages give the keys of the others
        "stages.projections.model.freeze.image=4", "stages.projections.optimizer.warmup_steps=7",
        "stages.projections.training.epochs=", "stages.projections.training.steps=5",
        "stages.cross.model.freeze.image=4", "stages.cross.optimizer.warmup_steps=7",
    ]  # fmt: skip
    changed = load_recipe(PretrainRecipe, find_recipe("hub-towers"), [*reaching, "training.epochs="])
    assert changed.stages[0].objectives["fgr"] is False
    assert [(one.training.steps, one.objectives.fgr.weight) for one in in_stages(changed)] == [(5, 0), (5, 0.5)]


def test_the_default_ladder_of_a_shipped_recipe_in_stages_can_be_trained(tmp_path: Path) -> None:
    recipe = load_recipe(PretrainRecipe, find_recipe("hub-towers"))
    ladder = default_ladder(recipe)
    assert [rung.name for rung in ladder] == ["towers", "fgr", "mlm", "tgd", "fgd", "all"]
    runs = plan_runs(write_base(recipe, [], tmp_path), ladder, 1, tmp_path)
    assert [run.objectives for run in runs][:2] == [["gcpr"], ["gcpr", "fgr"]]
    assert (runs[0].recipe.model.cross_layers, "cross_lr" in runs[0].recipe.stages[1].optimizer) == (0, False)
    assert runs[-1].recipe == recipe


def test_an_objective_that_every_stage_switches_off_is_not_trained() -> None:
    recipe = load_recipe(PretrainRecipe, find_recipe("hub-towers"), ["stages.cross.objectives={fgr: off}"])
    assert recipe.objectives.fgr.weight > 0
    assert objectives_of(recipe) == ["gcpr", "mlm", "tgd", "fgd"]


def test_the_metric_of_the_best_checkpoint_is_checked_in_each_stage(corpus: Path, tmp_path: Path) -> None:
    recipe = staged_recipe(corpus, "stages.heads.training.best=fgr")
    base = write_base(recipe, [], tmp_path)
    with pytest.raises(UsageError, match=r"rung 'without': .*training.best.metric=fgr: not in the log"):
        plan_runs(base, [Rung("without", ("objectives.fgr=off",), None)], 1, tmp_path)
