"""Which samples stand in which batch: an order that depends on the seed and the step alone.

Nothing here remembers a position: the batch of step n can be made without those before it, so that a run resumes
exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ccmb.data.sample import Sample


class Plan(Protocol):
    """Which samples stand in which batch.

    Attributes:
        rows: the part of every batch that this process reads.
    """

    rows: slice

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Batches of steps start .. stop - 1 as lists of (time, sample index).

        Each time a sample comes with another text and view.
        """


class BatchPlan:
    """Which samples stand in which batch.

    Every epoch is a new permutation of the groups. Samples of one group (near-duplicates, see `Sample.group`) stand in
    one batch, so that hard negatives meet; a group larger than a batch is cut first. The samples at the end of an epoch
    that do not fill a batch are left out; each epoch leaves out different ones.

    Args:
        group_from: the step from which groups stand together. Before it each sample stands for itself, since an
            untrained network learns little from near-duplicates.
        rows: the part of every batch that this process reads; other processes read the other parts.
    """

    def __init__(
        self, samples: Sequence[Sample], batch: int, seed: int, group_from: int = 0, rows: slice = slice(None)
    ) -> None:
        if len(samples) < batch:
            raise ValueError(f"{len(samples)} samples do not fill a batch of {batch}")
        together: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            together.setdefault(sample.group or f"\0{index}", []).append(index)
        self.groups = [group[at : at + batch] for group in together.values() for at in range(0, len(group), batch)]
        self.count, self.batch, self.seed, self.group_from = len(samples), batch, seed, group_from
        self.steps_per_epoch, self.rows = len(samples) // batch, rows

    def epoch_order(self, epoch: int, grouped: bool = True) -> np.ndarray:
        """All sample indices in the order of one epoch; each run of `batch` of them is a batch."""
        rng = np.random.default_rng([self.seed, epoch])
        if not grouped or len(self.groups) == self.count:
            return rng.permutation(self.count)
        order = rng.permutation(len(self.groups))
        return np.array(list(pack([self.groups[group] for group in order], self.batch)))

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """See `Plan`; the time is the epoch."""
        made, order = (-1, False), np.empty(0, dtype=np.int64)
        for step in range(start, stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            current = (epoch, step >= self.group_from)
            if current != made:
                made, order = current, self.epoch_order(*current)
            chosen = order[position * self.batch : (position + 1) * self.batch]
            yield [(epoch, int(index)) for index in chosen[self.rows]]


def pack(groups: Sequence[Sequence[int]], batch: int) -> Iterator[int]:
    """The members of groups of at most `batch`, in an order in which few groups cross the border of a batch.

    The first waiting group that fits into the room left in the batch comes next. If none fits, the first waiting group
    is cut, and its remaining members begin the next batch.
    """
    # The groups that wait, by size and in order, each with its position.
    waiting: dict[int, deque[tuple[int, Sequence[int]]]] = {}
    for position, group in enumerate(groups):
        waiting.setdefault(len(group), deque()).append((position, group))
    room = batch
    while waiting:
        fitting = [size for size in waiting if size <= room]
        size = min(fitting or waiting, key=lambda size: waiting[size][0][0])
        position, group = waiting[size].popleft()
        if not waiting[size]:
            del waiting[size]
        yield from group[:room]
        if remaining := group[room:]:
            waiting.setdefault(len(remaining), deque()).appendleft((-1, remaining))
        room = max(0, room - len(group)) or batch


class EachSample:
    """All samples in order, over and over so many times."""

    def __init__(self, count: int, batch: int, times: int) -> None:
        self.keys = [(-1 - time, index) for time in range(times) for index in range(count)]  # times of no training
        self.batch, self.steps, self.rows = batch, -(-len(self.keys) // batch), slice(None)

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """See `Plan`."""
        for step in range(start, stop):
            yield self.keys[step * self.batch : (step + 1) * self.batch]


class MinedPlan:
    """Batches of groups, each a sample and some of its neighbours: the hardest negatives of all samples meet.

    Every epoch is a new permutation of the samples, each of which is once the seed of a group. Others join it, drawn
    from its neighbours; so a sample stands in several batches of an epoch, but in none twice.

    Args:
        group: samples of a group; a batch holds at least one group.
        rows: see `BatchPlan`.

    Attributes:
        neighbors_NK: (N, K) indices of each sample's nearest others; known only once something has encoded them.
    """

    def __init__(self, count: int, batch: int, group: int, seed: int, rows: slice = slice(None)) -> None:
        if count < batch:
            raise ValueError(f"{count} samples do not fill a batch of {batch}")
        self.count, self.batch, self.group, self.seed, self.rows = count, batch, min(group, batch), seed, rows
        self.seeds = batch // self.group
        self.steps_per_epoch = count // self.seeds
        self.neighbors_NK: np.ndarray | None = None

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """See `Plan`; the time is the step."""
        made, order = -1, np.empty(0, dtype=np.int64)
        for step in range(start, stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != made:
                made, order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
            chosen = self._fill(order[position * self.seeds : (position + 1) * self.seeds].tolist(), step)
            yield [(step, index) for index in chosen[self.rows]]

    def _fill(self, seeds: list[int], step: int) -> list[int]:
        """The samples of a batch: groups of these seeds, and others by chance if too few of their neighbours differ."""
        assert self.neighbors_NK is not None, "the neighbours were found before the first batch"
        rng, chosen = np.random.default_rng([self.seed, step, 1]), dict[int, None]()
        for number, seed in enumerate(seeds, start=1):
            chosen[seed] = None
            for other in rng.permutation(self.neighbors_NK[seed]).tolist():
                if len(chosen) >= number * self.group:
                    break
                chosen[other] = None
        while len(chosen) < self.batch:
            chosen[int(rng.integers(self.count))] = None
        return list(chosen)
