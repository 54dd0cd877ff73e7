"""The recipe of a pre-training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.given_keys import Unused
from ccmb.objectives.config import Objectives
from ccmb.tasks.pretraining.unused_keys import unused_in_pretraining
from ccmb.training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, TrainingRecipe


class PretrainRecipe(ConfigBase):
    """All that a pre-training run depends on."""

    data: DataRecipe
    model: ModelRecipe = ModelRecipe()
    objectives: Objectives = Objectives()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe

    def unused(self) -> Iterator[Unused]:
        """See `ccmb.core.config.given_keys`."""
        return unused_in_pretraining(self)


P = TypeVar("P", bound=PretrainRecipe)
