"""Requests that come at about the same time share one call of the network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Observe = Callable[[int, float], None]


class Overloaded(Exception):
    """More is waiting than the queue may hold; `retry_after` is in seconds."""

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__("too much is waiting already")
        self.retry_after = retry_after


@dataclass(slots=True, eq=False)
class _Place(Generic[Item, Result]):
    """An item in the queue, and who waits for its result; `since` is the loop's time of its arrival."""

    item: Item
    result: asyncio.Future[Result]
    since: float


class Batcher(Generic[Item, Result]):
    """Collects items of any number of requests and works on up to `size` of them in one call.

    A call begins once `size` items have come, or the first has waited for `wait` seconds; what comes while the worker
    is busy goes into the next call. Whoever is cancelled while its items wait leaves no work behind.

    Args:
        work: what is called, in the worker, with 1 to `size` items; returns as many results. If it raises, each item
            is tried by itself, so that one that cannot be worked on takes down no other's.
        worker: an executor of one thread, which several batchers may share.
        size: most items of a call; 1 is no batching.
        wait: seconds.
        queue: items that may wait; a request that comes when there are as many is refused.

    Attributes:
        observe: is told of each call, how many items and seconds.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        worker: Executor,
        size: int = 16,
        wait: float = 0.005,
        queue: int = 256,
    ) -> None:
        self.size, self.wait, self.queue = size, wait, queue
        self.observe: Observe = lambda items, seconds: None
        self._work, self._worker = work, worker
        self._places: deque[_Place[Item, Result]] = deque()
        self._arrival = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._places)

    async def run(self, items: Sequence[Item]) -> list[Result]:
        """The results of a request's items, in their order.

        Raises:
            Overloaded: the queue is full.
            Exception: what `work` raised for one of the items.
        """
        if len(self._places) >= self.queue:
            raise Overloaded
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done():
            self._arrival = asyncio.Event()
            self._task = loop.create_task(self._serve())
        now = loop.time()
        places: list[_Place[Item, Result]] = [_Place(item, loop.create_future(), now) for item in items]
        self._places.extend(places)
        self._arrival.set()
        try:
            return await asyncio.gather(*(place.result for place in places))
        finally:
            for place in places:  # after an error or a cancellation nobody waits for the rest
                place.result.cancel()

    async def close(self) -> None:
        """Stop; nothing may be waiting any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self) -> None:
        while True:
            while not self._places:
                self._arrival.clear()
                await self._arrival.wait()
            await self._fill()
            if batch := self._take():
                await self._answer(batch)

    async def _fill(self) -> None:
        """Wait for more items, until there are `size` or the first has waited long enough."""
        loop = asyncio.get_running_loop()
        until = self._places[0].since + self.wait
        while len(self._places) < self.size and (left := until - loop.time()) > 0:
            self._arrival.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrival.wait(), left)

    def _take(self) -> list[_Place[Item, Result]]:
        batch: list[_Place[Item, Result]] = []
        while self._places and len(batch) < self.size:
            place = self._places.popleft()
            if not place.result.done():
                batch.append(place)
        return batch

    async def _answer(self, batch: Sequence[_Place[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            results = await loop.run_in_executor(self._worker, self._work, [place.item for place in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results of {len(batch)} items")
        except Exception as error:
            if len(batch) > 1:
                for place in batch:
                    if not place.result.done():
                        await self._answer([place])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        self.observe(len(batch), loop.time() - started)
        for place, result in zip(batch, results, strict=True):
            if not place.result.done():
                place.result.set_result(result)
