"""Politeness: how often, and how many times at once, a host is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class HostPaused(Exception):
    """A host asked to be left alone for longer than anyone here waits."""


@dataclass(slots=True)
class _Host:
    slots: asyncio.Semaphore
    users: int = 0
    next_start: float = 0.0
    paused_until: float = field(default=0.0)


class Hosts:
    """Gives out turns at hosts.

    Args:
        at_once: requests to one host at the same time.
        delay: seconds between the starts of two requests to one host.
        longest_pause: seconds that a request waits at most for a host that asked for a pause.
    """

    def __init__(self, at_once: int, delay: float, longest_pause: float) -> None:
        self.at_once, self.delay, self.longest_pause = at_once, delay, longest_pause
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Within, one request may be made to the host.

        Raises:
            HostPaused: the host wants a longer pause than is waited for.
        """
        host = self._hosts.setdefault(name, _Host(asyncio.Semaphore(self.at_once)))
        host.users += 1
        try:
            async with host.slots:
                await self._wait(host)
                yield
        finally:
            host.users -= 1
            # Millions of hosts come by: one that nobody waits for and that waits for nothing is forgotten.
            if not host.users and max(host.next_start, host.paused_until) <= _now():
                self._hosts.pop(name, None)

    def pause(self, name: str, seconds: float) -> None:
        """From now on no request to the host is started for so long."""
        host = self._hosts.setdefault(name, _Host(asyncio.Semaphore(self.at_once)))
        host.paused_until = max(host.paused_until, _now() + seconds)

    async def _wait(self, host: _Host) -> None:
        while True:
            if host.paused_until - _now() > self.longest_pause:
                raise HostPaused
            start = max(_now(), host.next_start, host.paused_until)
            host.next_start = start + self.delay
            await asyncio.sleep(start - _now())
            if host.paused_until <= _now():
                return


def _now() -> float:
    return asyncio.get_running_loop().time()
