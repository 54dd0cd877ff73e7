"""The batches of a pre-training run, from own pairs or from shards, and the list of what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ccmb.data.equal_texts import known_texts, shared_texts
from ccmb.data.loading import BatchPlan, FieldPlan, TrainingSet, training_batches
from ccmb.data.pictures import Pictures
from ccmb.data.streaming import stream_batches
from ccmb.errors import CcmbError
from ccmb.files import atomic_write
from ccmb.objectives.batch import Batch
from ccmb.r2d2.processing import R2D2Processor
from ccmb.samples import Sample
from ccmb.tasks.shard_data import FirstSamples, open_stream, record_shards
from ccmb.text_files import split_lines
from ccmb.training.distributed import world
from ccmb.training.recipe import DataRecipe, TrainingRecipe, data_folder


class Rows(Protocol):
    """A batch of pairs, of which some can be picked."""

    @property
    def image_ids(self) -> Tensor:
        """(B,) of each pair."""

    def rows(self, index: list[int]) -> Self:
        """Some of the pairs, in this order."""


B = TypeVar("B", bound=Rows)

# Pixels, a text, the number of the sample or picture, and of streamed samples the numbers of all their texts.
Item = tuple[np.ndarray, str, int] | tuple[np.ndarray, str, int, tuple[int, ...]]

# Each batch, and why samples of it are missing.
Loaded = Iterator[tuple[Batch | None, list[str]]]
# They are loaded with a processor, from the first step to the one before the last.
Load = Callable[[R2D2Processor, int, int], Loaded]


class Collate:
    """Training samples to a Batch; pictures that could not be read are set aside by name.

    Args:
        samples: to which the numbers of the items point; without them these are ids of pictures.
    """

    def __init__(self, processor: R2D2Processor, samples: list[Sample] | None = None) -> None:
        self.processor, self.samples = processor, samples
        self.image_ids: list[int] | None = None
        self.shared: dict[int, tuple[int, ...]] = {}
        if samples is not None:
            # Samples of one picture share an id, whatever line of the file they stand in.
            names = {name: number for number, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
            self.image_ids = [names[sample.image] for sample in samples]
            twins = {twin: number for number, twin in enumerate(dict.fromkeys(map(_twin, samples)))}
            self.twin_ids = [twins[_twin(sample)] for sample in samples]
            self.shared = shared_texts(samples)

    def __call__(self, items: Sequence[Item | str]) -> tuple[Batch | None, list[str]]:
        unreadable = [item for item in items if isinstance(item, str)]
        good = [item for item in items if not isinstance(item, str)]
        if not good:
            return None, unreadable
        pixels, texts, indices, *others = zip(*good, strict=True)
        known = others[0] if others else [self.shared.get(index, ()) for index in indices]
        encoded = self.processor.texts(texts)
        batch = Batch(
            self.processor.normalise(torch.from_numpy(np.stack(pixels))),
            encoded["input_ids"],
            encoded["attention_mask"],
            self.processor.maskable(encoded["input_ids"]),
            torch.tensor([self.image_ids[index] for index in indices] if self.image_ids is not None else indices),
            tuple(self.samples[index].image for index in indices) if self.samples is not None else (),
            tuple(texts),
            torch.tensor([self.twin_ids[index] for index in indices]) if self.samples is not None else None,
            torch.tensor([known_texts(*of_pair) for of_pair in zip(texts, known, strict=True)]),
        )
        return batch, unreadable

    def merge(self, parts: list[tuple[Batch | None, list[str]]]) -> tuple[Batch | None, list[str]]:
        """The batch whose samples were collated in several parts."""
        unreadable = [line for _, lines in parts for line in lines]
        batches = [batch for batch, _ in parts if batch is not None]
        if not batches:
            return None, unreadable
        return Batch.cat(batches, self.processor.tokenizer.pad_token_id), unreadable


def _twin(sample: Sample) -> str:
    return sample.twin or f"\0{sample.image}"


def load_pairs(samples: list[Sample], pictures: Pictures, data: DataRecipe, training: TrainingRecipe) -> Load:
    """How batches of pairs in a folder are loaded."""
    seed = training.seed
    if len(samples) < training.batch:
        where = data.name if data.shards else data_folder(str(data.folder)) / ("" if data.set else data.pairs)
        raise CcmbError(f"{where}: {len(samples)} pictures do not fill training.batch={training.batch}")
    rows = world().rows(training.batch // world().size)
    plan = BatchPlan(samples, training.batch, seed, round(data.group_start * training.steps), rows)

    def load(processor: R2D2Processor, start: int, stop: int) -> Loaded:
        dataset = TrainingSet(samples, pictures, processor.image_size, data.augmentation, seed, data.field_weights)
        collate = Collate(processor, samples)
        return training_batches(dataset, plan, start, stop, collate, data.workers, _field_plan(data, training))

    return load


def open_shards(
    data: DataRecipe, training: TrainingRecipe, out: Path
) -> tuple[Load, Iterable[Sample], Callable[[], None]]:
    """How batches of shards are loaded, the first samples, and what is to be done once the run has a folder."""
    stream, damaged = open_stream(data, training, out, world().rank, world().size)
    samples = FirstSamples(stream, out)

    def load(processor: R2D2Processor, start: int, stop: int) -> Loaded:
        collate, workers = Collate(processor), data.workers
        field_of = _field_plan(data, training)
        return stream_batches(stream, processor.image_size, start, stop, collate, collate.merge, workers, field_of)

    def begin() -> None:
        record_shards(stream, out)
        samples.record()
        _note_unreadable(damaged, out)

    return load, samples, begin


def _field_plan(data: DataRecipe, training: TrainingRecipe) -> FieldPlan | None:
    starts, steps = data.field_starts, training.steps
    return None if starts is None else FieldPlan(tuple(round(share * steps) for share in starts), training.seed)


def run_batches(
    load: Callable[[int, int], Iterator[tuple[B | None, list[str]]]], out: Path, rows: int
) -> Callable[[int, int], Iterator[B]]:
    """What the trainer takes its batches from; what cannot be read is added to the run's list.

    Args:
        load: the batches of the steps from one to the one before another.
        rows: pairs of a batch on this process.
    """

    def batches(start: int, stop: int) -> Iterator[B]:
        for batch, unreadable in load(start, stop):
            _note_unreadable(unreadable, out)
            if batch is None:
                raise CcmbError(f"no picture of a whole batch could be read; see {list_of_unreadable(out)}")
            yield batch if world().size == 1 else filled(batch, rows)

    return batches


def filled(batch: B, rows: int) -> B:
    """The batch with samples of it once more in the place of unreadable ones, so that all processes have `rows`; as
    positives of themselves they teach nothing false."""
    count = len(batch.image_ids)
    return batch if count == rows else batch.rows([place % count for place in range(rows)])


def list_of_unreadable(run: Path) -> Path:
    """Where this process lists the pictures that it could not read."""
    return run / (f"unreadable-{world().rank}.txt" if world().rank else "unreadable.txt")


def _note_unreadable(lines: list[str], out: Path) -> None:
    """Add to the process's list what the run's lists do not hold yet."""
    if not lines:
        return
    listed = set(unreadable_pictures(out))
    if not listed.issuperset(lines):
        with atomic_write(list_of_unreadable(out)) as file:
            file.writelines(f"{line}\n" for line in sorted(listed.union(lines)))


def unreadable_pictures(run: Path) -> list[str]:
    """A line for each picture that the run, by any of its processes, has tried to read in vain so far."""
    lists = [split_lines(path.read_text(encoding="utf-8")) for path in run.glob("unreadable*.txt")]
    return sorted({line for lines in lists for line in lines})
