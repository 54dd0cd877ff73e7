"""Where batch norm can be trained: its statistics must be those of a whole batch, and gathered once a step."""

from __future__ import annotations

from ccmb.core.errors import UsageError
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.stillness import has_batch_norm, is_frozen
from ccmb.training.distributed import world
from ccmb.training.recipe import TrainingRecipe


def check_batch_norm(model: R2D2Model, training: TrainingRecipe) -> None:
    """Refuse to train batch norm where its statistics would not be those of a batch.

    Raises:
        UsageError: several processes, chunks or gradient checkpointing.
    """
    if not model.config.train_batch_norm:
        return
    if all(is_frozen(tower) or not has_batch_norm(tower) for tower in (model.image_tower, model.text_tower)):
        return
    causes = {"several processes": world().size > 1, "training.chunk": training.chunk is not None} | {
        "training.gradient_checkpointing": training.gradient_checkpointing
    }
    if cause := next((name for name, holds in causes.items() if holds), None):
        raise UsageError(
            f"model.train_batch_norm: with {cause} its statistics would not be those of a whole batch; give "
            "model.train_batch_norm=off, or train without"
        )
