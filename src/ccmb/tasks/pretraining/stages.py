"""Pre-training in stages: one after another, each from the model of the one before, in one run folder.

    RUN/recipe.yaml             the whole recipe, epochs as steps
    RUN/metrics.jsonl           the log of all stages, with a running step and the stage's name
    RUN/stages/1-NAME/          the first stage, which is itself a run folder
    RUN/model/                  the model of the last one

A stage is finished once its model has a model card, which is written last. From then on it needs its checkpoints no
more: the next stage starts from the model's files, in this process or in one that continues the run.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ccmb.core.config.given_keys import is_given
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_files, atomic_write, read_json_lines
from ccmb.data.sample import Sample
from ccmb.data.seen_images import read_seen
from ccmb.data.shards.locate import find_shards
from ccmb.objectives.config import Side, check_objectives
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.resizing import resize
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.pretraining.model import CHANGED, trains_batch_norm
from ccmb.tasks.pretraining.model_card import CARD_FILE, write_model_card
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import in_stages, joint_objectives
from ccmb.tasks.pretraining.starting import (
    BuildNetwork,
    Surroundings,
    check_batch,
    check_best,
    prepare_run,
    pretraining_log,
    stage_folder,
)
from ccmb.training.distributed import World, barrier
from ccmb.training.log import append_line
from ccmb.training.model_selection import best_step


class OneRun(NamedTuple):
    """How a run without stages goes: functions of `ccmb.tasks.pretraining.run`, which imports this file.

    Attributes:
        build: makes the network of a recipe.
        prepare: applies the recipe to a network.
        train: see `pretrain_once`.
    """

    build: BuildNetwork
    prepare: Callable[[R2D2Model, PretrainRecipe], None]
    train: Callable[..., Path]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run.

    Attributes:
        number: from 1.
        count: of the run's stages.
        recipe: the whole recipe of the stage, its epochs as steps.
        folder: its run folder.
    """

    name: str
    number: int
    count: int
    recipe: PretrainRecipe
    folder: Path

    @property
    def words(self) -> str:
        """The stage for people, such as "stage 2 of 3 (towers)"."""
        return f"stage {self.number} of {self.count} ({self.name})"

    @property
    def is_finished(self) -> bool:
        """Whether its model is complete."""
        return (self.folder / "model" / CARD_FILE).is_file()


def pretrain_in_stages(recipe: PretrainRecipe, out: Path, joined: World, one_run: OneRun) -> Path:
    """Train the stages that are not finished, all ranks together, and return the folder of the finished model.

    Raises:
        UsageError: a stage does not suit the network or the processes; known before the first one trains.
        CcmbError: missing or faulty data, or a run folder that another recipe made.
    """
    recipe, stages = _settled(recipe, out, joined)
    if joined.is_main and (out / "recipe.yaml").exists():
        prepare_run(recipe, out)
    reads_tokens = frozenset[Side]().union(*(stage.recipe.objectives.reads_tokens() for stage in stages))
    for stage, before in zip(stages, [None, *stages], strict=False):
        if not stage.is_finished:
            begin = partial(_begin, stage, recipe, out)
            surroundings = Surroundings(stage.words, begin, _JoinedLog(out, stages, stage), reads_tokens)
            with _named(stage):
                network, start = _start(before, stages, one_run)
                one_run.train(
                    stage.recipe, stage.folder, joined, network=network, start=start, surroundings=surroundings
                )
        if joined.is_main and stage.number < stage.count:
            _remove_checkpoints(stage.folder / "checkpoints")
    if joined.is_main:
        join_logs(out, stages)
        _finish(out, stages)
    barrier()
    return out / "model"


def _settled(recipe: PretrainRecipe, out: Path, joined: World) -> tuple[PretrainRecipe, list[Stage]]:
    """The recipe and its stages with epochs as steps; what can be known to fail in any stage fails here."""
    count, counted = len(recipe.stages), dict[str, int]()
    stages, differences = list[Stage](), []
    for number, (stage, whole) in enumerate(zip(recipe.stages, in_stages(recipe), strict=True), start=1):
        settled = Stage(stage.name, number, count, whole, stage_folder(out, number, stage.name))
        with _named(settled):
            check_best(whole, pretraining_log(whole.objectives))
            check_batch(whole, joined)
            training = whole.training.in_steps(_texts(whole, counted))
        whole = whole.model_copy(update={"training": training})
        stages.append(Stage(stage.name, number, count, whole, settled.folder))
        differences.append(stage.with_steps(training.steps))
    return recipe.model_copy(update={"stages": differences}), stages


def _texts(recipe: PretrainRecipe, counted: dict[str, int]) -> int:
    """How many texts a stage's data holds; 0 of shards, whose epochs are not counted."""
    if recipe.data.shards:
        if recipe.training.epochs:
            raise UsageError("training.epochs: epochs of shards are not counted; give training.steps")
        find_shards(recipe.data.shards)
        return 0
    key = recipe.data.model_dump_json()
    if key not in counted:
        samples, _ = open_training(recipe.data)
        counted[key] = sum(len(sample.texts) for sample in samples)
    return counted[key]


def _begin(stage: Stage, recipe: PretrainRecipe, out: Path) -> None:
    """What the first rank does in the run's folder when a stage begins or goes on."""
    prepare_run(recipe, out)
    if (seen := read_seen(stage.folder)) is not None:
        seen.write(out)
    print(f"ccmb: {stage.words}", file=sys.stderr, flush=True)


def _start(before: Stage | None, stages: Sequence[Stage], one_run: OneRun) -> tuple[BuildNetwork, str | None]:
    """What makes the network that a stage begins with, and the folder that it is from if not the recipe's."""
    if before is None:
        return partial(_first_network, stages=stages, one_run=one_run), None
    return partial(_next_network, folder=before.folder / "model"), str(before.folder)


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Put the stage before the message of what fails in it."""
    try:
        yield
    except CcmbError as error:
        if not str(error).startswith("stage "):  # of a later one, on whose network the first one looks ahead
            error.args = (f"{stage.words}: {error}",)
        raise


def _first_network(
    recipe: PretrainRecipe, samples: Iterable[Sample], stages: Sequence[Stage], one_run: OneRun
) -> tuple[R2D2Model, R2D2Processor]:
    """The network of the first stage, with the heads of all; every later stage is tried on a copy of it."""
    joint = joint_objectives([stage.recipe for stage in stages])
    model, processor = one_run.build(recipe.model_copy(update={"objectives": joint}), samples)
    for stage in stages[1:]:
        with _named(stage):
            shape = stage.recipe.model
            check_objectives(stage.recipe.objectives, model.config)
            tried, _ = resize(copy.deepcopy(model), processor, shape.image_size, shape.max_text_tokens)
            tried.config.train_batch_norm = trains_batch_norm(shape)
            one_run.prepare(tried, stage.recipe)
    return model, processor


def _next_network(recipe: PretrainRecipe, samples: Iterable[Sample], folder: Path) -> tuple[R2D2Model, R2D2Processor]:
    """The network of a later stage: the weights of the one before exactly, but for positions of another size."""
    torch.manual_seed(recipe.training.seed)
    shape = recipe.model
    keys = is_given(shape, *CHANGED) if shape.init_from else CHANGED
    changes = {key: getattr(shape, key) for key in keys} | {"train_batch_norm": trains_batch_norm(shape)}
    return resize(*load_model(folder, changes=changes), shape.image_size, shape.max_text_tokens)


class _JoinedLog:
    """Adds the lines of a stage's log to the log of the run."""

    def __init__(self, out: Path, stages: Sequence[Stage], stage: Stage) -> None:
        self.out, self.stages, self.stage = out, stages, stage
        self._joined = False

    def __call__(self, line: dict[str, float]) -> None:
        if self._joined:
            append_line(self.out / "metrics.jsonl", _in_run(line, self.stages, self.stage))
        else:  # what is there may have lines of steps that a crash undid
            join_logs(self.out, self.stages)
            self._joined = True


def join_logs(out: Path, stages: Sequence[Stage]) -> None:
    """Write the log of a run anew from the logs of its stages."""
    with atomic_write(out / "metrics.jsonl") as file:
        for stage in stages:
            path = stage.folder / "metrics.jsonl"
            for _, line in read_json_lines(path) if path.exists() else ():
                file.write(json.dumps(_in_run(line, stages, stage)) + "\n")


def _in_run(line: dict[str, float], stages: Sequence[Stage], stage: Stage) -> dict[str, float | str]:
    """A line of a stage's log, with the step counted from the start of the run."""
    before = sum(earlier.recipe.training.steps for earlier in stages[: stage.number - 1])
    return {"step": before + int(line["step"]), "stage": stage.name, **{k: v for k, v in line.items() if k != "step"}}


def _remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished stage, but for the best one."""
    best = best_step(folder)
    for path in folder.glob("step-*"):
        if path.name != f"step-{best}":
            shutil.rmtree(path, ignore_errors=True)


def _finish(out: Path, stages: Sequence[Stage]) -> None:
    """Copy the last stage's model to the place of a run's, with a card of all stages; done again, it does nothing."""
    if (out / "model" / CARD_FILE).is_file():
        return
    source = stages[-1].folder / "model"
    with atomic_files(out / "model") as staging:
        for path in source.iterdir():
            if path.is_file() and path.name != CARD_FILE:
                shutil.copyfile(path, staging / path.name)
    model, _ = load_model(source)
    last, parts = stages[-1], {stage.name: (stage.recipe, stage.folder) for stage in stages}
    write_model_card(out / "model", model, last.recipe, last.folder, stages=parts)
