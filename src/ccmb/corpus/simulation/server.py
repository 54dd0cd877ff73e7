"""A local HTTP server of a folder of images with faults at known rates, for tests and demos.

The fault of an image depends only on its name and the seed. So a test knows the status that each link must end with.
The server runs in its own process and implements just enough HTTP to produce the faults.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ccmb.core.errors import CcmbError

_STATISTICS = "/_statistics"
_WITHOUT_FAULT = "/_plain/"


@dataclass(frozen=True, slots=True)
class Faults:
    """The share of images with each fault; the remaining images have none."""

    not_found: float = 0.0
    error_once: float = 0.0  # 500, and the second time the image
    error_always: float = 0.0
    busy_once: float = 0.0  # 429 with Retry-After: 1, and the second time the image
    reset: float = 0.0  # the connection is closed without an answer
    silent: float = 0.0  # no answer, and no end
    trickle: float = 0.0  # a byte now and then
    redirect: float = 0.0  # to the image
    redirect_private: float = 0.0  # to a private address
    redirect_loop: float = 0.0
    cut_off: float = 0.0  # the connection closes in the middle of the body
    damaged: float = 0.0  # the file itself ends in the middle
    wrong_length: float = 0.0  # a Content-Length of a half of the body
    html: float = 0.0  # a page, called image/jpeg
    huge: float = 0.0  # a body without end
    opted_out: float = 0.0  # X-Robots-Tag: noai


FAULTS = tuple(field.name for field in fields(Faults))
# The status that each fault must end with; "ok" if another attempt helps.
STATUSES = {
    "not_found": "http_404", "error_once": "ok", "error_always": "http_500", "busy_once": "ok", "reset": "connection",
    "silent": "timeout", "trickle": "too_slow", "redirect": "ok", "redirect_private": "refused_address",
    "redirect_loop": "too_many_redirects", "cut_off": "truncated", "damaged": "undecodable",
    "wrong_length": "bad_answer", "html": "not_an_image", "huge": "too_large", "opted_out": "opted_out",
}  # fmt: skip


def fault_of(name: str, faults: Faults, seed: int) -> str | None:
    """The fault of the image of this name, or None."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    for fault in FAULTS:
        position -= getattr(faults, fault)
        if position < 0:
            return fault
    return None


@contextmanager
def serve(
    folder: Path,
    faults: Faults | None = None,
    seed: int = 0,
    delay: float = 0.0,
    private: str = "http://10.0.0.1/",
    port: int = 0,
) -> Iterator[str]:
    """Serve a folder, and yield its base URL with a slash at the end. The server ends with the block or the process.

    It starts a process. So a script that uses it needs the guard `if __name__ == "__main__":`.

    Args:
        delay: seconds before each answer.
        private: the target of `redirect_private`.
        port: a port of this machine; 0 for any free port.

    Raises:
        CcmbError: the port is in use.
    """
    parent_end, child_end = multiprocessing.Pipe()
    server = _Server(folder=folder, faults=faults or Faults(), seed=seed, delay=delay, private=private, port=port)
    child = multiprocessing.get_context("spawn").Process(target=_run, args=(server, child_end), daemon=True)
    child.start()
    child_end.close()
    try:
        if not (bound_port := parent_end.recv()):
            raise CcmbError(f"port {port} of 127.0.0.1, which the links name, is in use; free it, or start again")
        yield f"http://127.0.0.1:{bound_port}/"
    finally:
        parent_end.close()
        child.join()


def statistics(base_url: str) -> dict[str, Any]:
    """The statistics of a server: "requests" by name, "most_at_once", and "least_gap" in seconds between requests."""
    with urllib.request.urlopen(base_url.rstrip("/") + _STATISTICS) as answer:
        counted: dict[str, Any] = json.load(answer)
    return counted


@dataclass
class _Server:
    folder: Path
    faults: Faults
    seed: int
    delay: float
    private: str
    port: int

    def __post_init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.at_once = self.max_at_once = 0
        self.last, self.min_gap = float("-inf"), float("inf")

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(unquote(await _requested(reader)), writer):
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False closes the connection."""
        if path == _STATISTICS:
            return _send(writer, json.dumps(self._statistics()).encode(), type="application/json")
        name = path.removeprefix(_WITHOUT_FAULT).lstrip("/")
        self._note(name)
        try:
            await asyncio.sleep(self.delay)
            file = self.folder / name
            if not file.is_file() or ".." in file.parts:
                return _send(writer, b"", status=404)
            fault = None if path.startswith(_WITHOUT_FAULT) else fault_of(name, self.faults, self.seed)
            return await self._send_with(fault, name, file.read_bytes(), writer)
        finally:
            self.at_once -= 1

    async def _send_with(self, fault: str | None, name: str, data: bytes, writer: asyncio.StreamWriter) -> bool:
        half, first = data[: len(data) // 2], self.requests[name] == 1
        if fault == "error_always" or (fault == "error_once" and first):
            return _send(writer, b"", status=500)
        if fault == "busy_once" and first:
            return _send(writer, b"", status=429, head="Retry-After: 1\r\n")
        if fault == "not_found":
            return _send(writer, b"", status=404)
        if fault == "html":
            return _send(writer, b"<!DOCTYPE html><html><body>gone</body></html>")
        if fault == "opted_out":
            return _send(writer, data, head="X-Robots-Tag: noai, noimageai\r\n")
        if fault == "damaged":
            return _send(writer, half)
        if fault in ("cut_off", "wrong_length"):
            _send(writer, half if fault == "cut_off" else data, length=len(data if fault == "cut_off" else half))
            return False
        if target := self._target(fault, name):
            return _send(writer, b"", status=302, head=f"Location: {target}\r\n")
        if fault in _WITHOUT_END:
            await _WITHOUT_END[fault](writer, data)
            return False
        return _send(writer, data)

    def _target(self, fault: str | None, name: str) -> str | None:
        targets = {"redirect": _WITHOUT_FAULT + name, "redirect_loop": f"/{name}", "redirect_private": self.private}
        return targets.get(fault or "")

    def _note(self, name: str) -> None:
        self.requests[name] += 1
        self.at_once += 1
        self.max_at_once = max(self.max_at_once, self.at_once)
        now = asyncio.get_running_loop().time()
        self.min_gap, self.last = min(self.min_gap, now - self.last), now

    def _statistics(self) -> dict[str, Any]:
        return {"requests": self.requests, "most_at_once": self.max_at_once, "least_gap": min(self.min_gap, 1e9)}


def _run(server: _Server, parent: Connection) -> None:
    async def run() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        try:
            listening = await asyncio.start_server(server.connected, "127.0.0.1", server.port, backlog=1024)
        except OSError:
            parent.send(0)
            return
        parent.send(listening.sockets[0].getsockname()[1])
        loop.add_reader(parent.fileno(), over.set)  # the parent closed its end, or is dead
        await over.wait()
        os._exit(0)  # without waiting for open requests, some of which never end

    asyncio.run(run())


async def _requested(reader: asyncio.StreamReader) -> str:
    """The path of the next request."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b" ", 2)[1].decode().split("?")[0]


def _send(
    writer: asyncio.StreamWriter, body: bytes, status: int = 200, head: str = "", type: str = "image/jpeg",
    length: int | None = None,
) -> bool:  # fmt: skip
    start = f"HTTP/1.1 {status} -\r\nContent-Type: {type}\r\nContent-Length: {len(body) if length is None else length}"
    writer.write(f"{start}\r\n{head}\r\n".encode() + body)
    return True


async def _reset(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send nothing: the connection is closed without an answer."""


async def _stay_silent(writer: asyncio.StreamWriter, data: bytes) -> None:
    await asyncio.sleep(3600)


async def _trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    _send(writer, b"", length=len(data))
    for at in range(len(data)):
        writer.write(data[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0.05)


async def _send_without_end(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"HTTP/1.1 200 -\r\nContent-Type: image/jpeg\r\n\r\n")
    while True:
        writer.write(bytes(2**16))
        await writer.drain()


_WITHOUT_END: dict[str, Callable[[asyncio.StreamWriter, bytes], Coroutine[Any, Any, None]]] = {
    "reset": _reset, "silent": _stay_silent, "trickle": _trickle, "huge": _send_without_end,
}  # fmt: skip
