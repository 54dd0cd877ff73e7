"""Half an hour of searching, adding and deleting at once: memory, errors and stale results of a server.

    python benchmarks/mixed_load.py --minutes 30 --json results.json

Searchers ask by text, by image and for more like a hit, with and without ranking and filters, and look at the small
images of what they find. A keeper adds drawn images with a field of its own and deletes the oldest of them. What
was added before a search began and not yet deleted must be found by its own image, and what was deleted before a
search began must not be found. Memory is that of the server's process: its median in the last tenth of the time
beside that in the second, since caches fill in the first.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import random_scene
from paired import claim, write_report
from server_process import DRAWN, Shelf, open_shelf, quantile, resident, serving, shelf_options

ADMIN = "admin-key-of-the-benchmark"
MAX_GROWTH = 5.0  # percent
EVERY = 2.0  # seconds between two looks at the memory


@dataclass(slots=True)
class Load:
    """Everything that asks the server, and what came of it.

    Attributes:
        live: keys of added images with their files; `gone` holds those that were deleted, and when.
        errors, stale: a line for each.
        seconds: of searches.
        memory: bytes of the server's process, and when.
    """

    http: httpx.AsyncClient
    texts: Sequence[str]
    until: float
    kept: int
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    live: deque[tuple[str, bytes]] = field(default_factory=deque)
    gone: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    added: int = 0

    async def search(self, **body: Any) -> list[str]:
        """Keys of the hits; none of them may have been deleted before the search began."""
        started = time.monotonic()
        answer = await self.http.post("/search", json=body)
        self.seconds.append(time.monotonic() - started)
        if answer.status_code == 404 and body.get("like") in self.gone:
            return []
        if answer.status_code != 200:
            self.errors.append(f"search: {answer.status_code} {answer.text[:200]}")
            return []
        keys = [hit["key"] for hit in answer.json()["hits"]]
        self.stale += [f"{key}: found after it was deleted" for key in keys if self.gone.get(key, started) < started]
        return keys

    async def searcher(self) -> None:
        text, rng = self.rng.choice(self.texts), self.rng
        kind = rng.randrange(6)
        body: dict[str, Any] = {"text": text, "k": 20, "depth": 32, "rank": kind != 0}
        if kind == 1:
            body["where"] = ["width>=1", "tag!=none"]
        elif kind == 2:
            body |= {"picture": encoded(scene(rng))}
        keys = await self.search(**body)
        if not keys:
            return
        key = rng.choice(keys)
        small = await self.http.get(f"/thumbnails/{key}")
        if small.status_code != 200 and key not in self.gone:
            self.errors.append(f"thumbnail: {small.status_code} {small.text[:200]}")
        if kind == 3:
            await self.search(like=key, k=20)

    async def keeper(self) -> None:
        """Add an image, see that it is found, and delete the oldest once there are enough."""
        self.added += 1
        data, tag = scene(self.rng), f"tag{self.added}"
        body = {"picture": encoded(data), "name": f"{tag}.png", "fields": {"tag": tag}}
        answer = await self.http.post("/pictures", json=body)
        if answer.status_code != 201:
            self.errors.append(f"add: {answer.status_code} {answer.text[:200]}")
            return
        key = answer.json()["key"]
        self.live.append((key, data))
        if key not in await self.search(image=encoded(data), where=[f"tag=={tag}"], rank=False):
            self.stale.append(f"{key}: not found after it was added")
        if len(self.live) <= self.kept:
            return
        key, data = self.live.popleft()
        answer = await self.http.delete(f"/pictures/{key}")
        if answer.status_code != 200:
            self.errors.append(f"delete: {answer.status_code} {answer.text[:200]}")
            return
        self.gone[key] = time.monotonic()
        await self.search(image=encoded(data), k=5, rank=False)

    async def again(self, work: Callable[[], Awaitable[None]], pause: float = 0.0) -> None:
        while time.monotonic() < self.until:
            try:
                await work()
            except httpx.HTTPError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause)

    async def watch(self, pid: int) -> None:
        self.memory.append((time.monotonic(), resident(pid)))


def scene(rng: random.Random) -> bytes:
    """A PNG file of a drawn scene."""
    file = io.BytesIO()
    render_scene(random_scene(rng), DRAWN, rng).save(file, "PNG")
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def load_server(url: str, pid: int, shelf: Shelf, options: argparse.Namespace) -> Load:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        load = Load(http, shelf.texts, time.monotonic() + 60 * options.minutes, options.kept)
        await load.keeper()  # the index learns of the field
        workers = [load.again(load.searcher) for _ in range(options.clients)]
        await asyncio.gather(*workers, load.again(load.keeper, 0.2), load.again(lambda: load.watch(pid), EVERY))
        return load


def growth(memory: Sequence[tuple[float, int]]) -> tuple[float, int, int]:
    """Percent by which the memory has grown, and its bytes in the second and in the last tenth of the time."""
    begun, ended = memory[0][0], memory[-1][0]
    tenth = (ended - begun) / 10
    first = statistics.median([size for when, size in memory if tenth <= when - begun <= 2 * tenth])
    last = statistics.median([size for when, size in memory if ended - when <= tenth])
    return 100 * (last / first - 1), int(first), int(last)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search, add and delete at once, and watch the server.")
    parser.add_argument("--minutes", type=float, default=30)
    shelf_options(parser, images=500)
    parser.add_argument("--clients", type=int, default=4, help="searchers")
    parser.add_argument("--kept", type=int, default=20, help="added images that are there at a time")
    parser.add_argument("--threads", type=int, default=1, help="of the server's network")
    parser.add_argument("--server", nargs="*", default=[], help="more options of `ccmb serve`")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shelf, shown = open_shelf(options, folder)
        (folder / "keys").write_text(f"keeper admin {ADMIN}\n")
        words = ["--api-keys", folder / "keys", *options.server]
        url, pid = stack.enter_context(serving(shelf.index, *words, threads=options.threads))
        load = asyncio.run(load_server(url, pid, shelf, options))
    for line in [*load.errors[:5], *load.stale[:5]]:
        print(line)
    percent, first, last = growth(load.memory)
    conditions = f"{options.minutes:g} minutes, {shown}"
    claims = [
        claim(f"{conditions}: growth of memory", percent, MAX_GROWTH, "%"),
        claim(f"{conditions}: errors", len(load.errors), 0, "requests"),
        claim(f"{conditions}: stale results", len(load.stale), 0, "results"),
        claim(f"{conditions}: searches", len(load.seconds) / (60 * options.minutes), None, "queries/s"),
        claim(f"{conditions}: p95 of a search", 1000 * quantile(load.seconds, 0.95), None, "ms"),
    ]
    names = ("minutes", "shape", "pictures", "clients", "kept", "threads")
    results: dict[str, Any] = {name: getattr(options, name) for name in names}
    results |= {"searches": len(load.seconds), "added": load.added, "deleted": len(load.gone)}
    results |= {"memory_first": first, "memory_last": last, "memory": [size for _, size in load.memory][::15]}
    results |= {"errors": load.errors[:20], "stale": load.stale[:20]}
    write_report(options.json, claims, results, torch.device("cpu"))
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
