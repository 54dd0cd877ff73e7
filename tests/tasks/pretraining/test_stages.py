"""Pre-training in stages: what is in the run folder, what goes from one stage to the next, and going on anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ccmb.core.config.recipe_files import load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json_lines
from ccmb.data.seen_images import read_seen
from ccmb.r2d2.loading import load_model
from ccmb.tasks.pretraining import run, stages
from ccmb.tasks.pretraining.parameter_groups import CROSS_PARTS
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.training.runs.run_folder import read_run
from ccmb.training.trainer import Trainer
from tests.helpers.killing import lines_of
from tests.helpers.runs import command_line, tiny_corpus
from tests.helpers.staged import STEPS, staged_recipe, staged_words

WEIGHTS = "model/model.safetensors"


class Killed(BaseException):
    """Ends the process as nothing catches it."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run.pretrain(staged_recipe(corpus), out) == out / "model"
    return out


def test_a_run_folder_holds_each_stage_and_the_model_of_the_last(whole: Path) -> None:
    first, last = whole / "stages" / "1-towers", whole / "stages" / "2-heads"
    assert (whole / WEIGHTS).read_bytes() == (last / WEIGHTS).read_bytes()
    assert not list((first / "checkpoints").glob("step-*"))
    assert (last / "checkpoints" / f"step-{STEPS}").is_dir()
    assert {path.name for path in (whole / "model").iterdir()} == {path.name for path in (last / "model").iterdir()}
    assert [load_model(folder)[0].config.image_size for folder in (first, last, whole)] == [32, 48, 48]
    resolved = load_recipe(PretrainRecipe, first / "recipe.yaml", settled=False)
    assert (resolved.stages, resolved.training.steps, resolved.model.freeze.image) == ([], STEPS, "all")
    assert [stage.name for stage in load_recipe(PretrainRecipe, whole / "recipe.yaml", settled=False).stages] == [
        "towers",
        "heads",
    ]
    seen = read_seen(whole / "model")
    assert seen is not None
    assert seen.read == read_seen(first).read
    card = (whole / "model" / "README.md").read_text(encoding="utf-8")
    assert card.index("Stage 1: towers") < card.index("Stage 2: heads")
    assert "| started from | stage 1, towers |" in card


def test_the_log_of_the_run_is_that_of_its_stages_with_a_running_step(whole: Path) -> None:
    lines = [line for _, line in read_json_lines(whole / "metrics.jsonl")]
    assert [line["step"] for line in lines] == list(range(1, 2 * STEPS + 1))
    assert [line["stage"] for line in lines] == ["towers"] * STEPS + ["heads"] * STEPS
    assert "fgr" not in lines[0]
    assert "fgr" in lines[-1]
    assert [line["loss"] for line in lines[STEPS:]] == [
        line["loss"] for _, line in read_json_lines(whole / "stages" / "2-heads" / "metrics.jsonl")
    ]
    told = read_run(whole)
    assert (told.step, told.steps, told.batches) == (2 * STEPS, 2 * STEPS, {"towers": 8, "heads": 6})


def test_the_heads_of_a_later_stage_are_there_and_untouched_until_it_trains_them(
    whole: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[dict[str, torch.Tensor]] = []

    def note(*arguments: Any) -> Any:
        network = build(*arguments)
        began.append({name: tensor.clone() for name, tensor in network[0].state_dict().items()})
        return network

    build = run.build_network
    monkeypatch.setattr(run, "build_network", note)
    monkeypatch.setattr(stages, "_next_network", killed)
    with pytest.raises(Killed):
        run.pretrain(staged_recipe(corpus), tmp_path / "run")
    first = load_file(whole / "stages" / "1-towers" / WEIGHTS)
    last = load_file(whole / WEIGHTS)
    heads = [name for name in first if name.startswith(CROSS_PARTS)]
    assert any(name.startswith("mlm_head") for name in heads)
    assert any(name.startswith("text_image_match") for name in heads)
    assert all(torch.equal(first[name], began[0][name]) for name in heads)
    assert not all(torch.equal(first[name], last[name]) for name in heads)
    image = [name for name in first if name.startswith("image_tower") and name in began[0]]
    assert all(torch.equal(first[name], began[0][name]) for name in image)  # frozen in the first stage alone


def test_a_later_stage_starts_from_the_weights_of_the_one_before_exactly(
    whole: Path, corpus: Path, tmp_path: Path
) -> None:
    recipe = staged_recipe(corpus, "stages.heads.model.image_size=32")
    network, _ = stages._next_network(stages.in_stages(recipe)[1], [], folder=whole / "stages" / "1-towers" / "model")
    stored = load_file(whole / "stages" / "1-towers" / WEIGHTS)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in stored.items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def killed(*_: object, **__: object) -> Any:
    raise Killed


def die_at(step: int, stage: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Die when this step of a stage has been logged, before it is saved."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        log = Trainer._log

        def log_and_die(self: Trainer, line: dict[str, float]) -> None:
            log(self, line)
            if self.step == step and self.out.name.endswith(stage):
                raise Killed

        monkeypatch.setattr(Trainer, "_log", log_and_die)

    return patch


def dies(module: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Die where this function is first called."""
    return lambda monkeypatch: monkeypatch.setattr(module, name, killed)


MOMENTS = {
    "within the first stage": die_at(2, "towers"),
    "before its model is written": dies(run, "save_model"),
    "before its model is complete": dies(run, "write_model_card"),
    "before its checkpoints are removed": dies(stages, "_remove_checkpoints"),
    "at the boundary": dies(stages, "_next_network"),
    "in the first step of the next": die_at(1, "heads"),
    "within the next": die_at(3, "heads"),
    "before the run's log is whole": dies(stages, "_finish"),
    "before the run's model is complete": dies(stages, "write_model_card"),
}


def test_killed_anywhere_it_goes_on_and_ends_as_never_stopped(whole: Path, corpus: Path, tmp_path: Path) -> None:
    for moment, patch in MOMENTS.items():  # one run that is killed at each of them in turn
        with pytest.MonkeyPatch.context() as monkeypatch:
            patch(monkeypatch)
            with pytest.raises(Killed):
                run.pretrain(staged_recipe(corpus, "training.checkpoint_every=1"), tmp_path / "run")
            assert not (tmp_path / "run" / "model" / "README.md").exists(), moment
    run.pretrain(staged_recipe(corpus, "training.checkpoint_every=1"), tmp_path / "run")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert lines_of(tmp_path / "run") == lines_of(whole)


def test_once_finished_the_same_command_changes_nothing(whole: Path, corpus: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(whole, run_folder)
    (run_folder / WEIGHTS).write_bytes(b"calibrated, or whatever else has been made of it")
    run.pretrain(staged_recipe(corpus), run_folder)
    assert (run_folder / WEIGHTS).read_bytes().startswith(b"calibrated")
    with pytest.raises(CcmbError, match="this folder holds a run of another recipe"):
        run.pretrain(staged_recipe(corpus, "stages.towers.optimizer.lr=0.1"), run_folder)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.heads.model.freeze.image=9", r"model\.freeze\.image=9: the image tower has 1 layers"),
        ("stages.heads.model.image_size=40", "image_size is 40; give a multiple"),
        ("stages.heads.training.best=gcrp", r"training\.best\.metric=gcrp: not in the log"),
        ("stages.heads.data.folder=nowhere", "no such folder"),
        ("stages.heads.objectives.gcpr.start_at=0.5", "no objective is on from the start"),
    ],
)
def test_what_a_later_stage_cannot_do_is_said_before_the_first_trains(
    corpus: Path, tmp_path: Path, override: str, message: str
) -> None:
    changes = [f"stages.heads.objectives.{name}.start_at=0.5" for name in ("fgr", "mlm") if "start_at" in override]
    with pytest.raises(CcmbError, match=rf"^stage 2 of 2 \(heads\): .*{message}"):
        run.pretrain(staged_recipe(corpus, override, *changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_epochs_become_steps_of_each_stage(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["stages.towers.training={epochs: 0.1}", "training.epochs=0.2", "stages.heads.training={batch_size: 6}"]
    run.pretrain(staged_recipe(corpus, *changes), tmp_path / "run")
    recipe = load_recipe(PretrainRecipe, tmp_path / "run" / "recipe.yaml", settled=False)
    counted = [stage.training["steps"] for stage in recipe.stages]
    assert counted == [max(1, round(0.1 * (texts_of(corpus) // 8))), max(1, round(0.2 * (texts_of(corpus) // 6)))]
    assert read_run(tmp_path / "run").steps == sum(counted)


def texts_of(corpus: Path) -> int:
    """Texts of the quickstart's fields in the training split."""
    lines = [line for _, line in read_json_lines(corpus / "pairs.jsonl") if line.get("split", "train") == "train"]
    return sum(len(line["details"]) + len(line["captions"]) for line in lines)


def test_the_command_says_which_stage_it_is_in(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    labels: list[str] = []
    progress = stages.Surroundings

    def noted(label: str, *others: Any) -> Any:
        labels.append(label)
        return progress(label, *others)

    monkeypatch.setattr(stages, "Surroundings", noted)
    outcome = command("pretrain", *staged_words(corpus), "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    assert labels == ["stage 1 of 2 (towers)", "stage 2 of 2 (heads)"]
    assert [line for line in outcome.err.splitlines() if "stage" in line] == [
        "ccmb: stage 1 of 2 (towers)",
        "ccmb: stage 2 of 2 (heads)",
    ]
    assert '"fgr"' in outcome.out


def test_batches_that_cannot_be_shared_are_refused_by_stage(corpus: Path, tmp_path: Path) -> None:
    from ccmb.training.distributed import World

    one_run = stages.OneRun(run.build_network, run.prepare_network, run.pretrain_once)
    with pytest.raises(UsageError, match=r"^stage 2 of 2 \(heads\): training\.batch_size=6 cannot be shared"):
        stages.pretrain_in_stages(staged_recipe(corpus), tmp_path / "run", World(0, 4), one_run)
