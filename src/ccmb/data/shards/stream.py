"""Training batches from shards, read from front to end, in an order that resumes exactly (see `order`).

A damaged or lost sample leaves its row of the batch empty; it never moves another sample.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ccmb.core.errors import CcmbError
from ccmb.data.equal_texts import text_id
from ccmb.data.images.transforms import Augmentation, augment, speaks_of_sides
from ccmb.data.loader import choose_text, leave_signals_to_the_trainer, read_ahead
from ccmb.data.sample import Sample
from ccmb.data.shards.locate import Shard
from ccmb.data.shards.order import Positions, SamplePosition, StreamOrder, share_of
from ccmb.data.shards.read import RawSample, parse_sample, read_samples
from ccmb.data.shards.write import decode_sample

# Augmented pixels, one of the texts, the image's id, and the ids of all of its texts; or a line that says why the
# sample cannot be used.
Item = tuple[np.ndarray, str, int, tuple[int, ...]] | str


@dataclass(frozen=True)
class ShardStream:
    """The training samples of some shards.

    Attributes:
        order: the order of the samples; its sizes are those of `shards`.
        fields: text fields that are trained on together.
        weights: how often each field is drawn from; without them each text is as likely.
        rank, world: this process among those that train together; it reads its part of each batch.
    """

    shards: Sequence[Shard]
    order: StreamOrder
    fields: Sequence[str]
    weights: Sequence[float] | None
    augmentation: Augmentation
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def streams(self) -> Sequence[int]:
        """The streams that this rank reads."""
        return share_of(range(self.order.streams), self.rank, self.world)

    def located_samples(
        self, stream: int, start: int, stop: int
    ) -> Iterator[tuple[int, SamplePosition, RawSample | str]]:
        """A stream's samples for steps start .. stop - 1: epoch, position, and the sample or why it is lost."""
        steps, share = self.order.steps_per_epoch, self.order.share
        for epoch in range(start // steps, -(-stop // steps)):
            first, last = max(start - epoch * steps, 0) * share, min(stop - epoch * steps, steps) * share
            draws = self.order.draws(epoch, stream)
            draws.skip(first)
            positions = Positions(self.order.runs(epoch, stream))
            reading, held = self._read(positions, draws.to_come()), {}
            for position in itertools.islice(draws, last - first):
                while position not in held:
                    at, raw = next(reading)
                    held[at] = raw
                yield epoch, positions.locate(position), held.pop(position)

    def item(
        self, epoch: int, location: SamplePosition, raw: RawSample | str, size: int, field: int | None = None
    ) -> Item:
        """A sample ready for training, with pixels (size, size, 3) and a text of the field (None: of any field)."""
        if isinstance(raw, str):
            return raw
        try:
            sample, image = decode_sample(raw, self.fields)
        except CcmbError as error:
            return " ".join(str(error).encode("utf-8", "replace").decode().split())
        rng = random.Random(f"{self.seed}/{epoch}/{location.shard}/{location.sample}")
        text = choose_text(sample, rng, field, self.weights)
        may_mirror = not any(map(speaks_of_sides, sample.texts))
        text_ids = tuple(map(text_id, sample.texts))
        return augment(image, size, self.augmentation, rng, may_mirror), text, image_id(sample.image), text_ids

    def first_samples(self, count: int) -> Iterator[Sample]:
        """The samples at the beginning of the first shards, without decoding; damaged ones are passed over.

        Raises:
            CcmbError: none of them can be used; the message says why not the first.
        """
        reasons, usable = [], False
        for shard in self.shards:
            taken = min(count, shard.samples or 0)
            for _, raw in read_samples(shard, range(taken)):
                try:
                    yield parse_sample(raw, self.fields)
                    usable = True
                except CcmbError as error:
                    reasons.append(str(error))
            count -= taken
        if not usable:
            raise CcmbError(reasons[0] if reasons else f"{self.shards[0].url}: no samples")

    def _read(self, positions: Positions, wanted: Iterator[int]) -> Iterator[tuple[int, RawSample | str]]:
        """The samples at the wanted positions of a stream, from front to end; shards without any are not opened."""
        for range_index, group in itertools.groupby(wanted, key=positions.run_of):
            sample_range, start = positions.runs[range_index], positions.starts[range_index]
            indices = (sample_range.first + position - start for position in group)
            for index, raw in read_samples(self.shards[sample_range.shard], indices):
                yield start + index - sample_range.first, raw


def stream_batches(
    stream: ShardStream,
    size: int,
    start: int,
    stop: int,
    collate: Callable[[list[Item]], Any],
    merge: Callable[[list[Any]], Any],
    workers: int = 0,
    field_of: Callable[[int], int] | None = None,
) -> Iterator[Any]:
    """The collated batches of steps start .. stop - 1 of this rank.

    `workers` processes read ahead, each from its own streams, without changing the order.

    Args:
        merge: makes one batch of the collated parts of several workers, in order.
        field_of: the text field of a step; without it each sample draws from all fields.

    Raises:
        CcmbError: a worker was killed.
    """
    loader = DataLoader(
        _StreamItems(stream, size, start, stop, field_of),
        batch_size=None,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_signals_to_the_trainer,
    )
    parts = read_ahead(loader)
    if workers <= 1:
        yield from parts
    while group := list(itertools.islice(parts, workers)):
        yield merge(group)


class _StreamItems(IterableDataset[list[Item]]):
    """The items of each step from the streams of this worker."""

    def __init__(
        self, stream: ShardStream, size: int, start: int, stop: int, field_of: Callable[[int], int] | None
    ) -> None:
        self.stream, self.size, self.start, self.stop, self.field_of = stream, size, start, stop, field_of

    def __iter__(self) -> Iterator[list[Item]]:
        worker = get_worker_info()
        streams = share_of(self.stream.streams, worker.id, worker.num_workers) if worker else self.stream.streams
        reading = [self.stream.located_samples(stream, self.start, self.stop) for stream in streams]
        share = self.stream.order.share
        for step in range(self.start, self.stop):
            field = self.field_of(step) if self.field_of else None
            yield [
                self.stream.item(*located, self.size, field)
                for samples in reading
                for located in itertools.islice(samples, share)
            ]


def image_id(name: str) -> int:
    """An id for the image of this name; equal names have equal ids."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1
