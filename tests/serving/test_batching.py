"""Batching: items of several requests share a call, in order, within bounds, and harm each other in no way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from ccmb.serving.batching import Batcher, Overloaded


class Work:
    """Squares numbers, in calls that it remembers; a negative one cannot be worked on. It can be held up."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.begun += 1
        assert self.go.wait(60)
        self.calls.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError(f"{min(items)}")
        return [item * item for item in items]


async def begun(work: Work) -> None:
    """Wait until the worker is busy, however slow the machine."""
    async with asyncio.timeout(60):
        while not work.begun:
            await asyncio.sleep(0.001)


def batcher(work: Work, **options: float) -> Batcher[int, int]:
    return Batcher(work, ThreadPoolExecutor(1), **options)  # type: ignore[arg-type]


def test_requests_that_come_together_share_a_call_and_get_their_own_results() -> None:
    async def run() -> None:
        work = Work()
        item = batcher(work, size=16, wait=0.05)
        result = await asyncio.gather(*(item.run([index, 10 * index]) for index in range(5)))
        assert result == [[index**2, 100 * index**2] for index in range(5)]
        assert [len(call) for call in work.calls] == [10]
        await item.close()

    asyncio.run(run())


def test_a_call_has_at_most_size_items_and_a_lone_one_waits_no_longer_than_it_must() -> None:
    async def run() -> None:
        work = Work()
        item = batcher(work, size=4, wait=60)
        await item.run(list(range(8)))  # two whole calls, without waiting
        assert [len(call) for call in work.calls] == [4, 4]
        item.wait = 0.02
        started = asyncio.get_running_loop().time()
        assert await item.run([3]) == [9]
        assert 0.02 <= asyncio.get_running_loop().time() - started < 50  # of 60
        await item.close()

    asyncio.run(run())


def test_what_comes_while_the_worker_is_busy_goes_into_the_next_call() -> None:
    async def run() -> None:
        work = Work()
        item = batcher(work, size=8, wait=0)
        work.go.clear()
        first = asyncio.create_task(item.run([1]))
        await begun(work)
        remaining = [asyncio.create_task(item.run([index])) for index in range(2, 7)]
        await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(first, *remaining)
        assert work.calls == [[1], [2, 3, 4, 5, 6]]
        await item.close()

    asyncio.run(run())


def test_an_item_that_cannot_be_worked_on_fails_alone() -> None:
    async def run() -> None:
        work = Work()
        item = batcher(work, wait=0.02)
        result = await asyncio.gather(item.run([1]), item.run([2, -5]), item.run([3]), return_exceptions=True)
        assert result[0] == [1]
        assert isinstance(result[1], ValueError)
        assert result[2] == [9]
        assert await item.run([4]) == [16]
        await item.close()

    asyncio.run(run())


def test_a_cancelled_request_leaves_no_work_behind() -> None:
    async def run() -> None:
        work = Work()
        item = batcher(work, wait=0)
        work.go.clear()
        busy = asyncio.create_task(item.run([1]))
        await begun(work)
        left, stays = asyncio.create_task(item.run([2])), asyncio.create_task(item.run([3]))
        await asyncio.sleep(0)
        left.cancel()
        work.go.set()
        assert await stays == [9]
        await busy
        assert work.calls == [[1], [3]]
        await item.close()

    asyncio.run(run())


def test_a_full_queue_refuses_but_a_large_request_still_finds_a_place() -> None:
    async def run() -> None:
        work = Work()
        item = batcher(work, size=2, wait=0, queue=3)
        work.go.clear()
        busy = asyncio.create_task(item.run([0]))
        await begun(work)
        large = asyncio.create_task(item.run([1, 2, 3, 4]))  # the queue is empty
        await asyncio.sleep(0)
        assert len(item) == 4
        with pytest.raises(Overloaded):
            await item.run([5])
        work.go.set()
        await busy
        assert await large == [1, 4, 9, 16]
        assert await item.run([5]) == [25]
        await item.close()

    asyncio.run(run())


def test_without_batching_every_item_has_a_call_of_its_own() -> None:
    async def run() -> None:
        work, seen = Work(), list[int]()
        item = batcher(work, size=1, wait=60)
        item.observe = lambda items, seconds: seen.append(items)
        await asyncio.gather(*(item.run([index]) for index in range(4)))
        assert sorted(work.calls) == [[0], [1], [2], [3]]
        assert seen == [1] * 4
        await item.close()

    asyncio.run(run())
