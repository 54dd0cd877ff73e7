"""The recipe of a pre-training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.given_keys import Unused
from ccmb.objectives.config import Objectives
from ccmb.tasks.pretraining.stage_recipe import StageRecipe, check_stages, unused_in_stages, with_default_length
from ccmb.tasks.pretraining.unused_keys import unused_in_pretraining
from ccmb.training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, TrainingRecipe


class PretrainRecipe(ConfigBase):
    """All that a pre-training run depends on."""

    data: DataRecipe
    model: ModelRecipe = ModelRecipe()
    objectives: Objectives = Objectives()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe
    stages: list[StageRecipe] = Field(
        [],
        description="stages that are trained one after another, each from the model of the one before: a name, and "
        "keys of data, model, objectives, optimizer and training that differ from those beside it",
    )

    @model_validator(mode="before")
    @classmethod
    def _length_of_stages(cls, values: Any) -> Any:
        return with_default_length(values)

    @model_validator(mode="after")
    def _each_stage_a_recipe(self) -> Self:
        check_stages(self)
        return self

    @model_serializer(mode="wrap")
    def _without_no_stages(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A recipe without stages is written without the key."""
        values: dict[str, Any] = write(self)
        if not self.stages:
            values.pop("stages", None)
        return values

    def unused(self) -> Iterator[Unused]:
        """See `ccmb.core.config.given_keys`."""
        return unused_in_stages(self) if self.stages else unused_in_pretraining(self)


P = TypeVar("P", bound=PretrainRecipe)
