"""Queries per second of a server, with and without dynamic batching and export, loaded from another process.

    python benchmarks/search.py --shape tiny --json results.json
    python benchmarks/search.py --shape tiny --clients 1 --depth 32 --threads 2
    python benchmarks/search.py --index quickstart/index --pairs quickstart/corpus/pairs.jsonl

Servers of copies of one index take turns:
    alone      `--batch 1`: every request has a call of its own
    batched    requests that come together share a call
    exported   likewise, computed with the model's int8 export (`--fast`)

So many clients ask, each again as soon as it is answered, for texts that no other asks for. Seconds are those of a
client, HTTP included. The first round warms up: caches fill in it. Without --index, scenes are drawn and a random
network of a preset's shape is indexed: it costs what a trained one does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import torch

from paired import Contestant, claim, median_ratio, take_turns, write_report
from server_process import Shelf, open_shelf, quantile, serving, shelf_options

TARGET = 2.0
P95 = 300.0  # ms, of one client whose queries rank 32 images with r2d2-tiny, on two cores


@dataclass(slots=True)
class Load:
    """Clients that ask one server; `seconds` holds what each request took, `total` that of all rounds."""

    url: str
    texts: Iterator[str]
    body: dict[str, Any]
    clients: int
    requests: int
    seconds: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)

    def run(self, number: int) -> None:
        started = time.perf_counter()
        taken = asyncio.run(self._ask_all())
        self.rounds.append(time.perf_counter() - started)
        self.seconds += taken

    async def _ask_all(self) -> list[float]:
        taken, left = list[float](), iter(range(self.requests))
        limits = httpx.Limits(max_connections=self.clients)
        async with httpx.AsyncClient(base_url=self.url, timeout=300, limits=limits) as http:

            async def client() -> None:
                for _ in left:
                    started = time.perf_counter()
                    answer = await http.post("/search", json=self.body | {"text": next(self.texts)})
                    answer.raise_for_status()
                    taken.append(time.perf_counter() - started)

            await asyncio.gather(*(client() for _ in range(self.clients)))
        return taken

    def forget(self) -> None:
        """Only warmed up so far."""
        self.seconds.clear()
        self.rounds.clear()

    @property
    def metrics(self) -> dict[str, float]:
        """Queries per second of all rounds, and milliseconds of one of two and of nineteen of twenty requests."""
        return {
            "queries_per_second": len(self.seconds) / sum(self.rounds),
            "p50_ms": 1000 * quantile(self.seconds, 0.5),
            "p95_ms": 1000 * quantile(self.seconds, 0.95),
        }


def compare(
    shelf: Shelf, servers: dict[str, list[str]], body: dict[str, Any], options: argparse.Namespace
) -> dict[str, tuple[Contestant, Load]]:
    """Load every server in turn."""
    loads = dict[str, tuple[Contestant, Load]]()
    with ExitStack() as stack:
        for name, words in servers.items():
            url, _ = stack.enter_context(serving(shelf.index, *words, threads=options.threads))
            load = Load(url, cycle(shelf.texts), body, options.clients, options.requests)
            load.run(0)
            load.forget()
            loads[name] = (Contestant(name, load.run), load)
        take_turns([contestant for contestant, _ in loads.values()], options.rounds, torch.device("cpu"), warm_up=0)
    return loads


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load a server with and without batching.")
    shelf_options(parser, images=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="most searches of a call")
    parser.add_argument(
        "--depth", type=int, nargs="+", default=[0, 16, 64], help="candidates ranked; 0: no second stage"
    )
    parser.add_argument("--requests", type=int, default=64, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a server's network")
    parser.add_argument("--export", action=argparse.BooleanOptionalAction, default=True, help="serve an export too")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    claims, results = list[dict[str, Any]](), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        shelf, shown = open_shelf(options, Path(folder))
        servers = {"alone": ["--batch", "1"], "batched": ["--batch", str(options.batch)]}
        if options.export:
            servers["exported"] = [*servers["batched"], "--fast"]
        for depth in options.depth:
            body = {"k": 10, "rank": depth > 0, "depth": max(1, depth)}
            loads = compare(shelf, servers, body, options)
            conditions = f"{shown}, {f'depth {depth}' if depth else 'first stage alone'}, {options.clients} clients"
            alone, *others = loads
            metrics = {name: load.metrics for name, (_, load) in loads.items()}
            for name in others:
                ratio, low, high = median_ratio(loads[alone][0], loads[name][0])
                target = TARGET if name == others[-1] and options.clients > 1 else None
                claims.append(claim(f"{conditions}: queries/s {name} / alone", ratio, target, "x"))
                metrics[name] |= {"ratio": ratio, "low": low, "high": high}
            if options.clients == 1:
                target = P95 if (options.shape, depth) == ("tiny", 32) else None
                claims += [claim(f"{conditions}: p95 {name}", metrics[name]["p95_ms"], target, "ms") for name in loads]
            results[f"depth {depth}"] = metrics
            print(conditions, json.dumps(metrics), flush=True)
    names = ("shape", "pictures", "clients", "batch", "requests", "rounds", "threads")
    write_report(options.json, claims, {name: getattr(options, name) for name in names} | results, torch.device("cpu"))
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
