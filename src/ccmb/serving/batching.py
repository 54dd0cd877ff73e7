"""Batching: requests that arrive at about the same time share one call of the network."""

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
    """The queue is full; `retry_after` is in seconds."""

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__("too much is waiting already")
        self.retry_after = retry_after


@dataclass(slots=True, eq=False)
class _QueuedItem(Generic[Item, Result]):
    """An item in the queue, with the future of its result; `since` is the loop's time of its arrival."""

    item: Item
    result: asyncio.Future[Result]
    since: float


class Batcher(Generic[Item, Result]):
    """Collects items of any number of requests and works on up to `size` of them in one call.

    A call begins once `size` items have come, or once the first has waited for `wait` seconds. Items that come while
    the worker is busy go into the next call. A request that is cancelled while its items wait leaves no work behind.

    Args:
        work: the function that the worker calls with 1 to `size` items; it returns as many results. If it raises, each
            item is tried by itself, so that one bad item does not fail the others.
        worker: an executor of one thread, which several batchers may share.
        size: most items of a call; 1 is no batching.
        wait: seconds that the first item waits for others.
        queue: the most items that may wait; when the queue is full, a request is refused.

    Attributes:
        observe: called after each call with its number of items and its seconds.
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
        self._queued: deque[_QueuedItem[Item, Result]] = deque()
        self._arrival = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """The number of waiting items."""
        return len(self._queued)

    async def run(self, items: Sequence[Item]) -> list[Result]:
        """The results of a request's items, in their order.

        Raises:
            Overloaded: the queue is full.
            Exception: what `work` raised for one of the items.
        """
        if len(self._queued) >= self.queue:
            raise Overloaded
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done():
            self._arrival = asyncio.Event()
            self._task = loop.create_task(self._serve())
        now = loop.time()
        queued: list[_QueuedItem[Item, Result]] = [_QueuedItem(item, loop.create_future(), now) for item in items]
        self._queued.extend(queued)
        self._arrival.set()
        try:
            return await asyncio.gather(*(entry.result for entry in queued))
        finally:
            for entry in queued:  # after an error or a cancellation nobody waits for the other results
                entry.result.cancel()

    async def close(self) -> None:
        """Stop the batcher; no item may be waiting any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self) -> None:
        while True:
            while not self._queued:
                self._arrival.clear()
                await self._arrival.wait()
            await self._fill()
            if batch := self._take():
                await self._answer(batch)

    async def _fill(self) -> None:
        """Wait for more items until there are `size`, or until the first has waited long enough."""
        loop = asyncio.get_running_loop()
        until = self._queued[0].since + self.wait
        while len(self._queued) < self.size and (left := until - loop.time()) > 0:
            self._arrival.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrival.wait(), left)

    def _take(self) -> list[_QueuedItem[Item, Result]]:
        batch: list[_QueuedItem[Item, Result]] = []
        while self._queued and len(batch) < self.size:
            entry = self._queued.popleft()
            if not entry.result.done():
                batch.append(entry)
        return batch

    async def _answer(self, batch: Sequence[_QueuedItem[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            results = await loop.run_in_executor(self._worker, self._work, [entry.item for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results of {len(batch)} items")
        except Exception as error:
            if len(batch) > 1:
                for entry in batch:
                    if not entry.result.done():
                        await self._answer([entry])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        self.observe(len(batch), loop.time() - started)
        for entry, result in zip(batch, results, strict=True):
            if not entry.result.done():
                entry.result.set_result(result)
