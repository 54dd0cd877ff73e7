"""Pre-training R2D2: from a recipe and a data folder to a run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ccmb.core.device import cpu_threads
from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.files import atomic_files
from ccmb.data.sample import Sample
from ccmb.data.seen_images import SeenImages
from ccmb.objectives.batch import Batch
from ccmb.objectives.distillation import teacher_agreement
from ccmb.objectives.flops import StepFlops
from ccmb.objectives.pretraining import PreTraining, sharding_units
from ccmb.objectives.step import PretrainAux
from ccmb.r2d2.common_api import checkpoint_layers
from ccmb.r2d2.compile import compile_blocks
from ccmb.r2d2.folders.match_temperature import stored_match_temperature
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.adapters import merge_adapters
from ccmb.r2d2.towers.stillness import freeze, is_frozen
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.common.seen import seen_in_training
from ccmb.tasks.pretraining.batch_norm import check_batch_norm
from ccmb.tasks.pretraining.batches import PairReader, open_shards, run_batches
from ccmb.tasks.pretraining.frozen_states import FrozenStates, check_frozen_states
from ccmb.tasks.pretraining.lora import add_lora
from ccmb.tasks.pretraining.mining import with_neighbors
from ccmb.tasks.pretraining.model import build_model
from ccmb.tasks.pretraining.model_card import frozen_parts, write_model_card
from ccmb.tasks.pretraining.parameter_groups import cross_start, parameter_groups
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stages import OneRun, pretrain_in_stages
from ccmb.tasks.pretraining.starting import (
    ALONE,
    BuildNetwork,
    Surroundings,
    check_batch,
    check_best,
    in_steps,
    prepare_run,
    pretraining_log,
)
from ccmb.training.distributed import World, barrier, process_group, world
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.parallel import full_state_dict
from ccmb.training.trainer import Task, Trainer
from ccmb.training.validation import Validation


class PretrainTask:
    """Pre-training as the trainer sees it."""

    def __init__(self, pretraining: PreTraining, recipe: PretrainRecipe) -> None:
        self.pretraining, self.recipe = pretraining, recipe

    @property
    def module(self) -> nn.Module:
        return self.pretraining

    def units(self) -> list[nn.Module]:
        return sharding_units(self.pretraining.model, self.pretraining.teacher)

    def groups(self) -> list[ParameterGroup]:
        return parameter_groups(self.pretraining.model, self.recipe.optimizer, cross_start(self.recipe.objectives))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.pretraining.total(losses)

    def after_step(self) -> None:
        self.pretraining.after_step()

    def report(self, aux: PretrainAux) -> dict[str, float]:
        metrics = {"temperature": float(self.pretraining.model.temperature.detach())}
        if aux.teacher is not None and aux.known is not None:
            features, known = aux.teacher, aux.known
            agreement = teacher_agreement(features.image_RD, features.text_RD, known.image_ids_R, known.text_ids_RW)
            metrics["teacher_agreement"] = round(float(agreement), 4)
        return metrics

    def padding(self, batch: Batch) -> float:
        return 1.0 - float(batch.attention_mask.float().mean())

    def flops(self, batch: Batch, progress: float) -> float:
        self._stored = {"stored": batch.image_rows is not None, "stored_text": batch.text_rows is not None}
        return self._flops(batch.attention_mask.sum(1).tolist(), int(batch.maskable.sum()), progress)

    @cached_property
    def _flops(self) -> StepFlops:
        model = self.pretraining.model
        frozen = is_frozen(model.image_tower), is_frozen(model.text_tower)
        return StepFlops(model.config, self.pretraining.objectives, *frozen, **self._stored)

    def describe(self, batch: Batch) -> dict[str, Any]:
        return batch.describe()


def pretrain(recipe: PretrainRecipe, out: Path) -> Path:
    """Run the recipe in the folder `out`, or continue it there, and return the folder of the finished model.

    Under torchrun all processes train it together, each on its part of every batch.

    Raises:
        CcmbError: missing or faulty data, or a run folder that another recipe made.
    """
    with cpu_threads(recipe.training.threads), process_group() as joined:
        if recipe.stages:
            return pretrain_in_stages(recipe, out, joined, OneRun(build_network, prepare_network, pretrain_once))
        return pretrain_once(recipe, out, joined)


def pretrain_once(
    recipe: PretrainRecipe,
    out: Path,
    joined: World,
    network: BuildNetwork | None = None,
    start: str | None = None,
    surroundings: Surroundings = ALONE,
) -> Path:
    """A run without stages, or one stage of a run; see `pretrain`.

    Args:
        network: makes the network that it begins with; by default the recipe's.
        start: the folder of the model that it begins with, whose images it has seen; by default the recipe's.
        surroundings: see `train_model`.
    """
    check_best(recipe, pretraining_log(recipe.objectives))
    check_frozen_states(recipe)
    check_batch(recipe, joined)
    if recipe.data.shards:
        if recipe.training.epochs:
            raise UsageError("training.epochs: epochs of shards are not counted; give training.steps")
        load, samples, begin = open_shards(recipe.data, recipe.training, out)
        states = None
    else:
        samples, images = open_training(recipe.data)
        recipe, begin = in_steps(recipe, samples), _nothing
        states = FrozenStates(samples, images, recipe, surroundings.reads_tokens)
        if not recipe.objectives.reads_tokens():
            states.image_rows = 1  # the pooled state, even if another stage has the others stored
        reader = PairReader(samples, images, recipe.data, recipe.training, states)
        load = reader.load
    model, processor = (network or build_network)(recipe, samples)
    task = PretrainTask(make_pretraining(model, processor, recipe), recipe)
    batches = run_batches(partial(load, processor), out, recipe.training.batch_size // joined.size)
    if states is not None:
        batches = with_neighbors(batches, reader, task.pretraining, processor, out)
        batches = states.before(batches, task.pretraining, processor)
    seen = seen_in_training(recipe.data, samples, start or recipe.model.init_from)
    return train_model(
        task, model, processor, recipe, out, batches=batches, begin=begin, seen=seen, surroundings=surroundings
    )


def _nothing() -> None:
    """The work of an own-pairs run once it has a folder: none."""


def build_network(recipe: PretrainRecipe, samples: Iterable[Sample]) -> tuple[R2D2Model, R2D2Processor]:
    """The network that a run begins with; equal recipes and samples give equal weights."""
    torch.manual_seed(recipe.training.seed)
    return build_model(recipe.model, recipe.objectives, samples)


def prepare_network(model: R2D2Model, recipe: PretrainRecipe) -> None:
    """Apply the recipe to a network: frozen parts, adapters and ways of computing.

    Raises:
        UsageError: there are fewer layers to freeze, batch norm cannot be trained as the recipe trains, or see
            `add_lora`.
    """
    towers: dict[str, nn.Module] = {"image": model.image_tower, "text": model.text_tower}
    for name, frozen in recipe.model.frozen().items():
        freeze(towers[name], frozen, name)
    add_lora(model, recipe.model)
    check_batch_norm(model, recipe.model.train_batch_norm, recipe.training)
    model.pack_texts = recipe.training.pack_texts
    if recipe.training.gradient_checkpointing:
        checkpoint_layers(model)


def make_pretraining(
    model: R2D2Model, processor: R2D2Processor, recipe: PretrainRecipe, has_other_loss: bool = False
) -> PreTraining:
    """The network with the recipe's objectives and all that they need; see `PreTraining`."""
    prepare_network(model, recipe)
    training, mask_id = recipe.training, processor.tokenizer.mask_token_id
    return PreTraining(model, recipe.objectives, mask_id, training.grad_cache_chunk, has_other_loss)


def train_model(
    task: Task,
    model: R2D2Model,
    processor: R2D2Processor,
    recipe: PretrainRecipe,
    out: Path,
    batches: Callable[[int, int], Iterator[Any]],
    begin: Callable[[], None] = _nothing,
    validation: Validation | None = None,
    seen: SeenImages | None = None,
    surroundings: Surroundings = ALONE,
) -> Path:
    """Train the network that a task holds in the run folder `out`, or go on there; all ranks take part.

    Args:
        task: how batches become losses of `model`.
        batches: those of the steps from one number to before another.
        begin: what is to be done once the run has a folder.
        validation: what is measured meanwhile; the finished model is the one that it chose, if it did.
        seen: what the model will have been trained on, which the run and its model folder keep on record.
        surroundings: of a stage, the run that it is part of.

    Returns:
        The folder of the finished model.
    """
    training = recipe.training
    if world().is_main:  # only now: a recipe that fails before leaves no folder that would refuse its fixed form
        prepare_run(recipe, out)
        if seen is not None:
            seen.write(out)
        begin()
        surroundings.begin()
        if frozen_words := frozen_parts(model, recipe.model):
            print(f"ccmb: frozen: {frozen_words}", file=sys.stderr, flush=True)
    barrier()
    if training.compile:
        compile_blocks(task.module)
    trainer = Trainer(task, recipe.optimizer, training, out, validation)
    trainer.label, trainer.on_line = surroundings.label, surroundings.on_line
    if trainer.resume() < training.steps:
        trainer.fit(batches)
        model.config.match_temperature = 1.0  # that of a model to start from was fitted to other weights
    else:
        model.config.match_temperature = stored_match_temperature(out / "model")
    trainer.finish()
    if recipe.model.lora is not None:
        merge_adapters(model)
    weights = full_state_dict(model.state_dict())
    if world().is_main:
        save_model(out / "model", model, processor, weights)
        if seen is not None:
            seen.write(out / "model")
        write_model_card(out / "model", model, recipe, out)
    barrier()
    return out / "model"


def save_model(
    folder: Path, model: R2D2Model, processor: R2D2Processor, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a model folder whose every file is whole at any moment: one cut short would keep a run from going on.

    Args:
        weights: the model's, where it holds a share of them alone.

    Raises:
        CcmbError: the disk is full or not writable.
    """
    try:
        with atomic_files(folder) as staging:
            model.save_pretrained(staging, state_dict=weights)
            processor.save_pretrained(staging)
    except SafetensorError as error:
        raise CcmbError(f"{folder}: could not be written ({one_line(error)})") from None
