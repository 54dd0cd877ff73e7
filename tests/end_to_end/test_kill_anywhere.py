"""Pre-training that is killed at random moments: the same command goes on, and ends as if it had never been."""

import json
import random
import time
from pathlib import Path
from typing import Any

from tests.helpers.killing import in_a_child, kill_in_a_child, trials_apart
from tests.helpers.runs import tiny_corpus, tiny_recipe
from tests.helpers.tuning import save_start

TRIALS, STEPS = 20, 10
RESULTS = ("model/model.safetensors", "recipe.yaml", "checkpoints/best.json")


def same_run(one: Path, other: Path) -> bool:
    """Whether two finished runs agree in weights, recipe, mark and log, but for what depends on the clock."""
    from ccmb.training.throughput import MEASURED

    def log(run: Path) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]

    return log(one) == log(other) and all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


def logged(run: Path) -> int:
    """How many steps stand in the log."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def trials(folder: Path) -> dict[str, Any]:
    """Kill TRIALS runs at moments spread over the time that a whole one takes, then let each go on to its end.

    Everything is imported once, here; a trial is a fork.
    """
    from transformers.utils.logging import disable_progress_bar

    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.tasks.pretraining.recipe import PretrainRecipe
    from ccmb.tasks.pretraining.run import pretrain
    from ccmb.training.checkpoints import list_checkpoints

    disable_progress_bar()
    save_start(folder / "any")  # what transformers makes once in a process, with the first model that it saves
    tiny_corpus(folder / "corpus")
    changes = ["training.checkpoint_every=2", "training.save_total_limit=1", "training.best=gcpr"]
    name, *overrides = [*tiny_recipe(folder / "corpus", STEPS), *changes, "model.cross_dropout=0.1"]
    recipe = load_recipe(PretrainRecipe, find_recipe(name), overrides)
    assert in_a_child(lambda: pretrain(recipe, folder / "warm")) == 0
    began = time.monotonic()
    assert in_a_child(lambda: pretrain(recipe, folder / "whole")) == 0
    whole, rng = time.monotonic() - began, random.Random(0)
    outcome: dict[str, Any] = {"done_when_killed": [], "wrong": []}
    for trial in range(TRIALS):
        run = folder / f"trial-{trial}"
        step, seconds = STEPS * trial // TRIALS, whole * rng.random() / 4  # the clock of a busy machine is no measure
        kill_in_a_child(
            lambda run=run: pretrain(recipe, run), run, seconds, lambda run=run, step=step: logged(run) >= step
        )
        outcome["done_when_killed"].append(max(list_checkpoints(run / "checkpoints"), default=0))
        if in_a_child(lambda run=run: pretrain(recipe, run)) or not same_run(run, folder / "whole"):
            outcome["wrong"].append(trial)
    return outcome


def test_killed_at_any_moment_a_run_goes_on_and_ends_as_never_stopped(tmp_path):
    outcome = trials_apart(trials, tmp_path)
    assert outcome["wrong"] == []
    assert len(set(outcome["done_when_killed"])) >= 3  # the moments are spread over the training
