"""Politeness: how many requests a host gets at once, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

# As soon as so many hosts are remembered, the idle ones are forgotten.
_KNOWN_AT_LEAST = 10_000


class HostPaused(Exception):
    """A host asked for a longer pause than the limit."""


@dataclass(slots=True)
class _Host:
    slots: asyncio.Semaphore
    users: int = 0
    next_start: float = 0.0
    paused_until: float = 0.0


class Hosts:
    """Gives out turns at hosts.

    Args:
        at_once: requests to one host at the same time.
        delay: seconds between the starts of two requests to one host.
        longest_pause: the longest wait in seconds for a host that asked for a pause.
    """

    def __init__(self, at_once: int, delay: float, longest_pause: float) -> None:
        self.at_once, self.delay, self.longest_pause = at_once, delay, longest_pause
        self._hosts: dict[str, _Host] = {}
        self._maximum = _KNOWN_AT_LEAST

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a turn; within the context one request may be made to the host.

        Raises:
            HostPaused: the host asked for a longer pause than the limit.
        """
        host = self._known(name)
        host.users += 1
        try:
            async with host.slots:
                await self._wait(host)
                yield
        finally:
            host.users -= 1

    def pause(self, name: str, seconds: float) -> None:
        """Start no request to the host for so many seconds from now."""
        host = self._known(name)
        host.paused_until = max(host.paused_until, _now() + seconds)

    def _known(self, name: str) -> _Host:
        if name not in self._hosts:
            if len(self._hosts) >= self._maximum:
                self._forget()
            self._hosts[name] = _Host(asyncio.Semaphore(self.at_once))
        return self._hosts[name]

    def _forget(self) -> None:
        """Forget the idle hosts, because a download meets millions: those without users, delay and pause."""
        now = _now()
        kept = {
            name: host for name, host in self._hosts.items()
            if host.users or max(host.next_start, host.paused_until) > now
        }  # fmt: skip
        self._hosts, self._maximum = kept, max(_KNOWN_AT_LEAST, 2 * len(kept))

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
