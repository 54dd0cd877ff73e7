"""Fine-tuning on labelled pairs: the task as the trainer sees it, and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ccmb.core.errors import CcmbError
from ccmb.data.batch_plan import BatchPlan
from ccmb.data.images.source import ImageSource
from ccmb.data.loader import TrainingSet, training_batches
from ccmb.data.sample import Sample
from ccmb.objectives.batch import LabelledBatch
from ccmb.objectives.collate import LabelledCollate
from ccmb.objectives.matching import Matching, MatchingAux
from ccmb.objectives.pretraining import sharding_units
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.pretraining.parameter_groups import parameter_groups
from ccmb.training.distributed import world
from ccmb.training.optimizers import ParameterGroup
from ccmb.training.recipe import DataRecipe, OptimizerRecipe, TrainingRecipe


class MatchingTask:
    """Matching as the trainer sees it."""

    def __init__(self, matching: Matching, optimizer: OptimizerRecipe) -> None:
        self.matching, self.optimizer = matching, optimizer

    @property
    def module(self) -> nn.Module:
        return self.matching

    def units(self) -> list[nn.Module]:
        return sharding_units(self.matching.model)

    def groups(self) -> list[ParameterGroup]:
        return parameter_groups(self.matching.model, self.optimizer)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.matching.total(losses)

    def after_step(self) -> None:
        self.matching.model.clamp_temperature()

    def report(self, aux: MatchingAux) -> dict[str, float]:
        """The share of the step's pairs that is judged as it is labelled."""
        return {"match_accuracy": round(float((aux.log_probabilities_B2.argmax(1) == aux.labels_B).float().mean()), 4)}

    def describe(self, batch: LabelledBatch) -> dict[str, Any]:
        return {"names": list(batch.names), "texts": list(batch.texts), "labels": batch.labels.tolist()}


class LabelledLoader:
    """The batches of a run over labelled pairs: in an order that the seed and the step alone decide.

    Raises:
        CcmbError: the pairs do not fill a batch.
    """

    def __init__(
        self, samples: Sequence[Sample], images: ImageSource, data: DataRecipe, training: TrainingRecipe
    ) -> None:
        if len(samples) < training.batch_size:
            raise CcmbError(
                f"{images.path}: {len(samples)} pairs do not fill training.batch_size={training.batch_size}"
            )
        self.samples, self.images, self.data, self.training = samples, images, data, training
        rows = world().rows(training.batch_size // world().size)
        group_from = round(data.group_start * training.steps)
        self.plan = BatchPlan(samples, training.batch_size, training.seed, group_from, rows)

    def __call__(
        self, processor: R2D2Processor, start: int, stop: int
    ) -> Iterator[tuple[LabelledBatch | None, list[str]]]:
        augmentation, seed = self.data.augmentation, self.training.seed
        dataset = TrainingSet(self.samples, self.images, processor.image_size, augmentation, seed, alike=True)
        collate = LabelledCollate(processor, self.samples)
        return training_batches(
            dataset, self.plan, start=start, stop=stop, collate=collate, workers=self.data.num_workers
        )
