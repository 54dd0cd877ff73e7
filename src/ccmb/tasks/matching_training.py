"""Fine-tuning on labelled pairs: the task as the trainer sees it, and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ccmb.data.equal_texts import text_key
from ccmb.data.labelled_pairs import label_of
from ccmb.data.loading import BatchPlan, TrainingSet, training_batches
from ccmb.data.pictures import Pictures
from ccmb.errors import CcmbError
from ccmb.objectives.labelled_batch import LabelledBatch
from ccmb.objectives.matching import Matching
from ccmb.objectives.pretraining import sharding_units
from ccmb.r2d2.processing import R2D2Processor
from ccmb.samples import Sample
from ccmb.tasks.pretraining import CROSS_PARTS
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
        """Towers and projections; cross encoders and heads."""
        lr, named = self.optimizer.lr, list(self.matching.model.named_parameters())
        cross = [p for name, p in named if name.startswith(CROSS_PARTS)]
        towers = [p for name, p in named if not name.startswith(CROSS_PARTS)]
        return [ParameterGroup(towers, lr), ParameterGroup(cross, self.optimizer.cross_lr or lr)]

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.matching.total(losses)

    def after_step(self) -> None:
        self.matching.model.clamp_temperature()

    def report(self) -> dict[str, float]:
        """The share of the latest batch that is judged as it is labelled."""
        if self.matching.judged is None:
            return {}
        log_probabilities_B2, labels_B = self.matching.judged
        return {"match_accuracy": round(float((log_probabilities_B2.argmax(1) == labels_B).float().mean()), 4)}

    def describe(self, batch: LabelledBatch) -> dict[str, Any]:
        return {"names": list(batch.names), "texts": list(batch.texts), "labels": batch.labels.tolist()}


class LabelledCollate:
    """Training samples to a LabelledBatch; pictures that could not be read are set aside by name."""

    def __init__(self, processor: R2D2Processor, samples: Sequence[Sample]) -> None:
        self.processor, self.samples = processor, samples
        self.image_ids = _numbers([sample.image for sample in samples])
        self.text_ids = _numbers([text_key(sample.texts[0]) for sample in samples])
        self.labels = [label_of(sample) for sample in samples]

    def __call__(self, items: list[tuple[np.ndarray, str, int] | str]) -> tuple[LabelledBatch | None, list[str]]:
        unreadable = list(dict.fromkeys(item for item in items if isinstance(item, str)))
        good = [item for item in items if not isinstance(item, str)]
        if not good:
            return None, unreadable
        pixels, texts, indices = zip(*good, strict=True)
        image_ids = [self.image_ids[index] for index in indices]
        place = _numbers(image_ids)
        first = {number: row for row, number in reversed(list(enumerate(place)))}
        encoded = self.processor.texts(texts)
        batch = LabelledBatch(
            self.processor.normalise(torch.from_numpy(np.stack([pixels[first[p]] for p in sorted(first)]))),
            torch.tensor(place),
            encoded["input_ids"],
            encoded["attention_mask"],
            torch.tensor([self.labels[index] for index in indices]),
            torch.tensor(image_ids),
            torch.tensor([self.text_ids[index] for index in indices]),
            tuple(self.samples[index].image for index in indices),
            tuple(texts),
        )
        return batch, unreadable


def _numbers(values: Sequence[Any]) -> list[int]:
    """A number for each value, the same for equal ones, from 0 in the order in which they first come."""
    number_of = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [number_of[value] for value in values]


class LabelledLoader:
    """The batches of a run over labelled pairs: in an order that the seed and the step alone decide.

    Raises:
        CcmbError: the pairs do not fill a batch.
    """

    def __init__(
        self, samples: Sequence[Sample], pictures: Pictures, data: DataRecipe, training: TrainingRecipe
    ) -> None:
        if len(samples) < training.batch:
            raise CcmbError(f"{pictures.path}: {len(samples)} pairs do not fill training.batch={training.batch}")
        self.samples, self.pictures, self.data, self.training = samples, pictures, data, training
        rows = world().rows(training.batch // world().size)
        group_from = round(data.group_start * training.steps)
        self.plan = BatchPlan(samples, training.batch, training.seed, group_from, rows)

    def __call__(
        self, processor: R2D2Processor, start: int, stop: int
    ) -> Iterator[tuple[LabelledBatch | None, list[str]]]:
        augmentation, seed = self.data.augmentation, self.training.seed
        dataset = TrainingSet(self.samples, self.pictures, processor.image_size, augmentation, seed, alike=True)
        collate = LabelledCollate(processor, self.samples)
        return training_batches(dataset, self.plan, start, stop, collate, self.data.workers)
