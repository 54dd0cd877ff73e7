"""Conditions of training batch norm: statistics of a whole batch, gathered once a step."""

from __future__ import annotations

from ccmb.core.errors import UsageError
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import has_batch_norm, is_frozen
from ccmb.training.distributed import world
from ccmb.training.recipe import TrainingRecipe


def check_batch_norm(model: R2D2Model, given: bool | None, training: TrainingRecipe) -> None:
    """Refuse to train batch norm where its statistics would not be those of a batch.

    Args:
        given: what the recipe says, if it says so itself.

    Raises:
        UsageError: several processes, chunks or gradient checkpointing; or there is no batch norm to say so of.
    """
    norms = [tower for tower in (model.image_tower, model.text_tower) if has_batch_norm(tower)]
    if given is not None and not norms:
        raise UsageError("'model.train_batch_norm' would do nothing (no tower has batch norm); leave it out")
    if not model.config.train_batch_norm or all(map(is_frozen, norms)):
        return
    causes = {
        "several processes": world().size > 1,
        "training.grad_cache_chunk": training.grad_cache_chunk is not None,
        "training.gradient_checkpointing": training.gradient_checkpointing,
    }
    if cause := next((name for name, holds in causes.items() if holds), None):
        raise UsageError(
            f"model.train_batch_norm: with {cause} its statistics would not be those of a whole batch; give "
            "model.train_batch_norm=off, or train without"
        )
