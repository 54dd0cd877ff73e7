"""Some steps of pre-training a tiny network of two layers a tower by the trainer, which may be stopped in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.objectives.batch import Batch
from ccmb.r2d2.modeling import R2D2Model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import PretrainTask, make_pretraining
from ccmb.training.distributed import world
from ccmb.training.parallel import full_state_dict
from ccmb.training.trainer import Trainer
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_model, tiny_processor

STEPS, BATCH = 4, 4
OBJECTIVES = {"tgd": {"queue_size": 8}, "fgr": {"start_at": 0.25}, "mlm": {"start_at": 0.25}, "ema_decay": 0.9}


def two_layers(seed: int = 0, **changes: Any) -> R2D2Model:
    """`tiny_model` whose towers have two layers each."""
    config = tiny_config()
    deeper = {
        name: getattr(config, name).to_dict() | {"num_hidden_layers": 2} for name in ("vision_config", "text_config")
    }
    return tiny_model(seed, **deeper | changes)


def recipe_with(steps: int = STEPS, **parts: dict[str, Any]) -> PretrainRecipe:
    """The recipe of a short training; `parts` are its sections, over the defaults of these tests."""
    training = {
        "steps": steps, "batch_size": BATCH, "log_every": 1, "checkpoint_every": 2, "precision": "fp32",
        "device": "cpu", "tensorboard": False,
    }  # fmt: skip
    return PretrainRecipe.model_validate(
        {
            "data": {"folder": "unread"},
            "model": {"init_from": "unread"} | parts.get("model", {}),
            "objectives": OBJECTIVES | parts.get("objectives", {}),
            "optimizer": {"lr": 0.01, "warmup_steps": 2} | parts.get("optimizer", {}),
            "training": training | parts.get("training", {}),
        }
    )


def trainer_of(out: Path, recipe: PretrainRecipe, model: R2D2Model | None = None, **more: Any) -> Trainer:
    """The trainer of a recipe, at the newest checkpoint in `out` if there is one."""
    out.mkdir(exist_ok=True, parents=True)
    torch.manual_seed(recipe.training.seed)
    task = PretrainTask(make_pretraining(model or two_layers(), tiny_processor(), recipe), recipe)
    trainer = Trainer(task, recipe.optimizer, recipe.training, out, **more)
    trainer.resume()
    return trainer


def batches(start: int, stop: int) -> Iterator[Batch]:
    """This rank's rows of the batches of some steps."""
    rows = world().rows(BATCH // world().size)
    for step in range(start, stop):
        yield tiny_batch(BATCH, seed=step).rows(list(range(rows.start, rows.stop)))


def train(out: Path, recipe: PretrainRecipe, model: R2D2Model | None = None, stop: int | None = None) -> Trainer:
    """Train, or go on, to the end; or until the process "dies" in the step after `stop`."""
    trainer = trainer_of(out, recipe, model)
    if stop is None:
        trainer.fit(batches)
        return trainer

    def cut(start: int, _: int) -> Iterator[Batch]:
        yield from batches(start, stop)
        raise RuntimeError("pulled")

    with pytest.raises(RuntimeError, match="pulled"):
        trainer.fit(cut)
    return trainer


def state_of(trainer: Trainer) -> dict[str, Any]:
    """All full tensors of the module that a trainer trains; all ranks must take part."""
    return {name: value.clone() for name, value in full_state_dict(dict(trainer.task.module.state_dict())).items()}
