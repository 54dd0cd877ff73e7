"""The order in which shards are streamed: a function of the seed and the step alone, made of whole numbers.

Each epoch puts the shards into a new order and cuts the sequence of their samples into `streams` parts of equal length.
A stream reads its part from front to end into a buffer, from which its samples are drawn at random; each batch takes
equally many samples from every stream. So the order depends on seed, batch, streams and buffer, but not on how many
processes read. Of W ranks, rank r reads the streams of the r-th of W equal parts, and the batch of a step is that of
rank 0, then that of rank 1, and so on.

A stream that begins in the middle of an epoch repeats that epoch's draws, which are only numbers (0.4 s for a million),
and reads only the samples still to come. The oldest sample in a full buffer of n was read about n ln n samples ago, so
a stream also passes over the headers of that many samples (0.07 s for a thousand), wherever in the epoch it begins.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ccmb.core.errors import UsageError


class SampleRange(NamedTuple):
    """Samples first .. stop - 1 of a shard."""

    shard: int
    first: int
    stop: int


class SamplePosition(NamedTuple):
    """Where a sample lies: the shard's index, and the sample's index in the shard."""

    shard: int
    sample: int


@dataclass(frozen=True)
class StreamOrder:
    """Which samples stand in which batch.

    The samples at the end of an epoch that do not fill a batch are left out; each epoch leaves out different ones.

    Attributes:
        sizes: samples of each shard.
        batch: of all ranks together; a multiple of `streams`.
        buffer: samples that each stream holds to draw from.
        per_epoch: use only so many samples in each epoch.
    """

    sizes: tuple[int, ...]
    batch: int
    streams: int
    buffer: int
    seed: int
    per_epoch: int | None = None

    @property
    def share(self) -> int:
        """Samples of one stream in a batch."""
        return self.batch // self.streams

    @cached_property
    def steps_per_epoch(self) -> int:
        total = sum(self.sizes)
        return min(total, self.per_epoch or total) // self.batch

    def runs(self, epoch: int, stream: int) -> list[SampleRange]:
        """What a stream reads in an epoch, in order."""
        length = self.steps_per_epoch * self.share
        begin, ranges, at = stream * length, [], 0
        for sample_range in self._row(epoch):
            count = sample_range.stop - sample_range.first
            low, high = max(begin, at), min(begin + length, at + count)
            if low < high:
                ranges.append(
                    SampleRange(sample_range.shard, sample_range.first + low - at, sample_range.first + high - at)
                )
            at += count
        return ranges

    def draws(self, epoch: int, stream: int) -> Draws:
        """The order in which a stream gives its samples away."""
        rng = random.Random(f"{self.seed}/draws/{epoch}/{stream}")
        return Draws(self.steps_per_epoch * self.share, self.buffer, rng)

    def _row(self, epoch: int) -> Iterator[SampleRange]:
        """The shards in the order of an epoch. It begins somewhere in the first shard and ends at the same sample."""
        rng = random.Random(f"{self.seed}/shards/{epoch}")
        shards = range(len(self.sizes))
        first_shard = rng.choices(shards, self.sizes)[0]  # by size, so that each sample is as likely to be left out
        cut, others = rng.randrange(self.sizes[first_shard]), rng.sample(shards, len(shards))
        yield SampleRange(first_shard, cut, self.sizes[first_shard])
        yield from (SampleRange(shard, 0, self.sizes[shard]) for shard in others if shard != first_shard)
        yield SampleRange(first_shard, 0, cut)


class Draws:
    """The order in which a shuffle buffer of `size` gives away the numbers 0 .. count - 1 that are read in order."""

    def __init__(self, count: int, size: int, rng: random.Random) -> None:
        self.count, self._random = count, rng.random
        self._held = list(range(min(size, count)))
        self._next = len(self._held)

    def __iter__(self) -> Iterator[int]:
        while self._held:
            yield self.draw()

    def draw(self) -> int:
        held = self._held
        slot = int(self._random() * len(held))
        drawn = held[slot]
        if self._next < self.count:
            held[slot] = self._next
            self._next += 1
        else:
            held[slot] = held[-1]
            held.pop()
        return drawn

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.draw()

    def to_come(self) -> Iterator[int]:
        """The numbers not yet given away, from front to end."""
        return itertools.chain(sorted(self._held), range(self._next, self.count))


class Positions:
    """The samples of a stream, numbered from 0 in the order of its ranges, and where each of them lies."""

    def __init__(self, runs: Sequence[SampleRange]) -> None:
        self.runs = runs
        self.starts = [0, *itertools.accumulate(sample_range.stop - sample_range.first for sample_range in runs)]

    def run_of(self, position: int) -> int:
        return bisect_right(self.starts, position) - 1

    def locate(self, position: int) -> SamplePosition:
        range_index = self.run_of(position)
        sample_range = self.runs[range_index]
        return SamplePosition(sample_range.shard, sample_range.first + position - self.starts[range_index])


def share_of(streams: Sequence[int], part: int, parts: int) -> Sequence[int]:
    """The streams of process `part` of `parts`: in order, and divided as evenly as possible."""
    return streams[len(streams) * part // parts : len(streams) * (part + 1) // parts]


def check_streams(order: StreamOrder, world: int, workers: int) -> None:
    """Check that `world` ranks with so many workers each can share the streams.

    Raises:
        UsageError: there are too few shards or streams, or they do not divide evenly; the message has the arithmetic.
    """
    shards, readers = len(order.sizes), world * max(1, workers)
    reading = f"{world} ranks x {max(1, workers)} workers = {readers} processes that read"
    streams = f"data.streams={order.streams}"
    if shards < readers:
        raise UsageError(f"{shards} shards < {reading}; lower data.num_workers, or write the data into more shards")
    if order.streams < readers:
        raise UsageError(
            f"{streams} < {reading}; set data.streams to a multiple of {readers}, or lower data.num_workers"
        )
    if shards < order.streams:
        fitting = max(n for n in range(1, shards + 1) if order.batch % n == 0)
        raise UsageError(f"{shards} shards < {streams}; set data.streams={fitting}, or write the data into more shards")
    if order.streams % world:
        raise UsageError(f"{streams} / {world} ranks is not whole; set data.streams to a multiple of {world}")
    if order.batch % order.streams:
        raise UsageError(
            f"training.batch_size={order.batch} / {streams} is not whole; set data.streams to a divisor of the batch"
        )
    if not order.steps_per_epoch:
        total = min(sum(order.sizes), order.per_epoch or sum(order.sizes))
        raise UsageError(f"{total} samples an epoch do not fill training.batch_size={order.batch}")
