"""Batches in an order that depends on the seed and the step alone, so that a run resumes exactly.

Nothing here remembers a position: the batch of step n can be made without those before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ccmb.data.pictures import Pictures, UnreadablePicture
from ccmb.data.transforms import Augmentation, augment
from ccmb.samples import Sample


class BatchPlan:
    """Which samples stand in which batch.

    Every epoch is a new permutation of the groups; samples of one group (near-duplicates, see `Sample.group`) stay
    together, so that the hard ones meet in a batch. The last, short batch of an epoch is left out.
    """

    def __init__(self, samples: Sequence[Sample], batch: int, seed: int) -> None:
        if len(samples) < batch:
            raise ValueError(f"{len(samples)} samples do not fill a batch of {batch}")
        together: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            together.setdefault(sample.group or f"\0{index}", []).append(index)
        self.groups = list(together.values())
        self.batch, self.seed = batch, seed
        self.steps_per_epoch = len(samples) // batch

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Sample indices of one epoch in order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        return np.concatenate([self.groups[group] for group in order])

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Batches of steps start .. stop - 1 as lists of (epoch, sample index)."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(start, stop):
            wanted, position = divmod(step, self.steps_per_epoch)
            if wanted != epoch:
                epoch, order = wanted, self.epoch_order(wanted)
            chosen = order[position * self.batch : (position + 1) * self.batch]
            yield [(epoch, int(index)) for index in chosen]


class TrainingSet(Dataset[tuple[np.ndarray, str, int] | str]):
    """Samples by (epoch, index): augmented pixels, one of the texts, and the sample's index; or, where the picture
    cannot be read, its name and why."""

    def __init__(
        self, samples: Sequence[Sample], pictures: Pictures, size: int, augmentation: Augmentation, seed: int
    ) -> None:
        self.samples, self.pictures, self.size = samples, pictures, size
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, str, int] | str:
        epoch, index = key
        sample = self.samples[index]
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        text = rng.choice(sample.texts)
        try:
            image = self.pictures.load(sample.image)
        except UnreadablePicture as error:
            return str(error)
        return augment(image, text, self.size, self.augmentation, rng), text, index


def training_batches(
    dataset: TrainingSet,
    plan: BatchPlan,
    start: int,
    stop: int,
    collate: Callable[[list[Any]], Any],
    workers: int = 0,
) -> Iterator[Any]:
    """The collated batches of steps start .. stop - 1; `workers` processes read ahead without changing the order."""
    loader = DataLoader(
        dataset,
        batch_sampler=list(plan.batches(start, stop)),  # type: ignore[arg-type]  # keys need not be integers
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    yield from loader
