"""The batches of a pre-training run, from own pairs or from shards, and the list of what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, Self, TypeVar

from torch import Tensor

from ccmb.core.config.recipe_files import data_folder
from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.core.text.files import split_lines
from ccmb.data.batch_plan import BatchPlan, EachSample, MinedPlan, Plan
from ccmb.data.images.source import ImageSource
from ccmb.data.languages import LanguagePlan, language_weights
from ccmb.data.loader import FieldPlan, TrainingSet, training_batches
from ccmb.data.sample import Sample
from ccmb.data.shards.stream import stream_batches
from ccmb.data.states.images import StoredImages
from ccmb.data.states.store import StateStore
from ccmb.objectives.batch import Batch
from ccmb.objectives.collate import Collate
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.pretraining.shards import FirstSamples, open_stream, record_shards
from ccmb.training.distributed import world
from ccmb.training.recipe import DataRecipe, TrainingRecipe


class Rows(Protocol):
    """A batch of pairs, of which some can be picked."""

    @property
    def image_ids(self) -> Tensor:
        """(B,) id of each pair's image."""

    def rows(self, index: list[int]) -> Self:
        """Some of the pairs, in this order."""


B = TypeVar("B", bound=Rows)


# Each batch, and why samples of it are missing.
Loaded = Iterator[tuple[Batch | None, list[str]]]
# They are loaded with a processor, from the first step to the one before the last.
LoadBatches = Callable[[R2D2Processor, int, int], Loaded]


class Stored(Protocol):
    """What of the towers' states is stored once the batches are loaded; see `ccmb.tasks.pretraining.frozen_states`."""

    images: StoredImages | None
    image_store: StateStore | None
    text_store: StateStore | None
    image_rows: int | None


class PairReader:
    """Reads batches of pairs in a folder.

    Attributes:
        plan: which samples stand in which batch; mined ones lack the samples' neighbours until they are found, see
            `ccmb.tasks.pretraining.mining`.
    """

    def __init__(
        self,
        samples: list[Sample],
        images: ImageSource,
        data: DataRecipe,
        training: TrainingRecipe,
        stored: Stored | None = None,
    ) -> None:
        if len(samples) < training.batch_size // data.texts_per_image:
            where = data.name if data.shards else data_folder(str(data.folder)) / ("" if data.dataset else data.pairs)
            raise CcmbError(f"{where}: {len(samples)} images do not fill training.batch_size={training.batch_size}")
        self.samples, self.images, self.data, self.training, self.stored = samples, images, data, training, stored
        batch = training.batch_size // data.texts_per_image  # samples
        rows = world().rows(batch // world().size)
        self.plan: BatchPlan | MinedPlan
        if data.mining is not None:
            self.plan = MinedPlan(len(samples), batch, data.mining.group, training.seed, rows)
        else:
            self.plan = BatchPlan(samples, batch, training.seed, round(data.group_start * training.steps), rows)

    def load(self, processor: R2D2Processor, start: int, stop: int) -> Loaded:
        """The batches of the steps from one to the one before another; see `LoadBatches`."""
        field_of, texts = _field_plan(self.data, self.training), self.data.texts_per_image
        return self._read(processor, self.plan, start, stop, field_of=field_of, texts=texts)

    def each(self, processor: R2D2Processor, times: int, batch: int) -> Loaded:
        """Every sample so many times, each time with another text and view."""
        plan = EachSample(len(self.samples), batch, times)
        return self._read(processor, plan, 0, plan.steps)

    def _read(
        self,
        processor: R2D2Processor,
        plan: Plan,
        start: int,
        stop: int,
        *,
        field_of: FieldPlan | LanguagePlan | None = None,
        texts: int = 1,
    ) -> Loaded:
        return training_batches(
            self._dataset(processor),
            plan,
            start=start,
            stop=stop,
            collate=self._collate(processor),
            workers=self.data.num_workers,
            field_of=field_of,
            texts=texts,
        )

    def _dataset(self, processor: R2D2Processor) -> TrainingSet:
        return TrainingSet(
            self.samples,
            self.images,
            size=processor.image_size,
            augmentation=self.data.augmentation,
            seed=self.training.seed,
            weights=self._weights(),
            alike=self.data.texts_per_image > 1,
            spread=self.data.languages is not None,
            stored=None if self.stored is None else self.stored.images,
        )

    def _weights(self) -> list[float] | None:
        data = self.data
        if data.languages is None or data.field_weights is not None:
            return data.field_weights
        return language_weights(self.samples, data.language_temperature)

    def _collate(self, processor: R2D2Processor) -> Collate:
        collate = Collate(processor, self.samples)
        if self.stored is not None:
            collate.image_store, collate.text_store = self.stored.image_store, self.stored.text_store
            collate.image_rows = self.stored.image_rows
        return collate


def open_shards(
    data: DataRecipe, training: TrainingRecipe, out: Path
) -> tuple[LoadBatches, Iterable[Sample], Callable[[], None]]:
    """A function that loads batches of shards, the first samples, and a function to call once the run has a folder."""
    stream, damaged = open_stream(data, training, out, world().rank, world().size)
    samples = FirstSamples(stream, out)

    def load(processor: R2D2Processor, start: int, stop: int) -> Loaded:
        collate, workers = Collate(processor), data.num_workers
        field_of = _field_plan(data, training)
        return stream_batches(
            stream,
            size=processor.image_size,
            start=start,
            stop=stop,
            collate=collate,
            merge=collate.merge,
            workers=workers,
            field_of=field_of,
        )

    def begin() -> None:
        record_shards(stream, out)
        samples.record()
        _note_unreadable(damaged, out)

    return load, samples, begin


def _field_plan(data: DataRecipe, training: TrainingRecipe) -> FieldPlan | LanguagePlan | None:
    if data.languages is not None and data.balance_languages:
        return LanguagePlan(len(data.languages), training.seed)
    starts, steps = data.field_starts, training.steps
    return None if starts is None else FieldPlan(tuple(round(share * steps) for share in starts), training.seed)


def run_batches(
    load: Callable[[int, int], Iterator[tuple[B | None, list[str]]]], out: Path, rows: int
) -> Callable[[int, int], Iterator[B]]:
    """The trainer's source of batches; images that cannot be read are added to the run's list.

    Args:
        load: the batches of the steps from one to the one before another.
        rows: pairs of a batch on this process.
    """

    def batches(start: int, stop: int) -> Iterator[B]:
        for batch, unreadable in load(start, stop):
            _note_unreadable(unreadable, out)
            if batch is None:
                raise CcmbError(f"no image of a whole batch could be read; see {list_of_unreadable(out)}")
            yield batch if world().size == 1 else filled(batch, rows)

    return batches


def filled(batch: B, rows: int) -> B:
    """The batch with samples of it once more in the place of unreadable ones, so that all processes have `rows`; as
    positives of themselves they teach nothing false."""
    count = len(batch.image_ids)
    return batch if count == rows else batch.rows([index % count for index in range(rows)])


def list_of_unreadable(run: Path) -> Path:
    """The file in which this process lists the images that it could not read."""
    return run / (f"unreadable-{world().rank}.txt" if world().rank else "unreadable.txt")


def _note_unreadable(lines: list[str], out: Path) -> None:
    """Add to the process's list what the run's lists do not hold yet."""
    if not lines:
        return
    listed = set(unreadable_images(out))
    if not listed.issuperset(lines):
        with atomic_write(list_of_unreadable(out)) as file:
            file.writelines(f"{line}\n" for line in sorted(listed.union(lines)))


def unreadable_images(run: Path) -> list[str]:
    """A line for each image that the run, by any of its processes, has tried to read in vain so far."""
    paths = [*run.glob("unreadable*.txt"), *run.glob("stages/*/unreadable*.txt")]
    lists = [split_lines(path.read_text(encoding="utf-8")) for path in paths]
    return sorted({line for lines in lists for line in lines})
