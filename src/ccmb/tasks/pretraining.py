"""Pre-training R2D2: from a recipe and a data folder to a run folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ccmb.errors import CcmbError, UsageError
from ccmb.objectives.pretraining import Objectives, PreTraining, sharding_units
from ccmb.r2d2.modeling import R2D2Model
from ccmb.tasks.batches import open_pairs, open_shards, run_batches
from ccmb.tasks.building import build_model
from ccmb.tasks.calibration import stored_match_temperature
from ccmb.tasks.model_card import write_model_card
from ccmb.training.distributed import World, meet, process_group
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.parallel import whole
from ccmb.training.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Part,
    TrainingRecipe,
    save_recipe,
)
from ccmb.training.trainer import Trainer

CROSS_PARTS = (
    "image_to_cross",
    "text_image_encoder",
    "image_text_encoder",
    "text_image_match",
    "image_text_match",
    "mlm_head",
)


class PretrainRecipe(Part):
    """All that a pre-training run depends on."""

    data: DataRecipe
    model: ModelRecipe = ModelRecipe()
    objectives: Objectives = Objectives()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe


class PretrainTask:
    """Pre-training as the trainer sees it."""

    def __init__(self, pretraining: PreTraining, recipe: PretrainRecipe) -> None:
        self.pretraining, self.recipe = pretraining, recipe

    @property
    def module(self) -> nn.Module:
        return self.pretraining

    def units(self) -> list[nn.Module]:
        return sharding_units(self.pretraining)

    def groups(self) -> list[ParameterGroup]:
        return parameter_groups(self.pretraining.model, self.recipe)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.pretraining.total(losses)

    def after_step(self) -> None:
        self.pretraining.after_step()

    def report(self) -> dict[str, float]:
        return {"temperature": float(self.pretraining.model.temperature.detach())}


def pretrain(recipe: PretrainRecipe, out: Path) -> Path:
    """Run the recipe in the folder `out`, or continue it there, and return the folder of the finished model.

    Under torchrun all processes train it together, each on its part of every batch.

    Raises:
        CcmbError: missing or faulty data, or a run folder that another recipe made.
    """
    with process_group() as joined:
        return _pretrain(recipe, out, joined)


def _pretrain(recipe: PretrainRecipe, out: Path, joined: World) -> Path:
    data, training = recipe.data, recipe.training
    if training.batch % joined.size:
        raise UsageError(f"training.batch={training.batch} cannot be shared evenly by {joined.size} processes")
    load, samples, begin = open_shards(data, training, out) if data.shards else open_pairs(data, training)
    torch.manual_seed(training.seed)
    model, processor = build_model(recipe.model, recipe.objectives, samples)
    pretraining = PreTraining(model, recipe.objectives, processor.tokenizer.mask_token_id, training.chunk)
    task = PretrainTask(pretraining, recipe)
    if joined.is_main:  # only now: a recipe that fails above leaves no folder that would refuse its mended form
        prepare_run(recipe, out)
        begin()
    meet()
    trainer = Trainer(task, recipe.optimizer, training, out)
    start = trainer.resume()
    if start < training.steps:
        trainer.fit(run_batches(partial(load, processor), out, training.batch // joined.size))
        model.config.match_temperature = 1.0  # that of a model to start from was fitted to other weights
    else:
        model.config.match_temperature = stored_match_temperature(out / "model")
    weights = whole(model.state_dict())
    if joined.is_main:
        model.save_pretrained(out / "model", state_dict=weights)
        processor.save_pretrained(out / "model")
        write_model_card(out / "model", model, recipe, out)
    meet()
    return out / "model"


def prepare_run(recipe: PretrainRecipe, out: Path) -> None:
    """Make the run folder with its resolved recipe; a folder that holds another recipe's run is refused."""
    path = out / "recipe.yaml"
    before = path.read_text(encoding="utf-8") if path.exists() else None
    if before is not None:
        save_recipe(recipe, out / ".recipe.yaml")
        now = (out / ".recipe.yaml").read_text(encoding="utf-8")
        (out / ".recipe.yaml").unlink()
        if now != before:
            raise CcmbError(f"{out}: this folder holds a run of another recipe; choose another --out or remove it")
    save_recipe(recipe, path)


def parameter_groups(model: R2D2Model, recipe: PretrainRecipe) -> list[ParameterGroup]:
    """Towers and projections; cross encoders and heads, which start with the first objective that needs them."""
    cross = [p for name, p in model.named_parameters() if name.startswith(CROSS_PARTS)]
    towers = [p for name, p in model.named_parameters() if not name.startswith(CROSS_PARTS)]
    ranking = [o for o in (recipe.objectives.fgr, recipe.objectives.mlm) if o.weight]
    start = min((objective.start for objective in ranking), default=0.0)
    lr = recipe.optimizer.lr
    return [ParameterGroup(towers, lr), ParameterGroup(cross, recipe.optimizer.cross_lr or lr, start)]
