"""Latency, recall and memory of searching as an index grows, and the time of whole two-stage queries.

    python benchmarks/search_scale.py --folder scale --json search_scale.json

Vectors: 256 numbers, clustered (800 centres), random. Filters pass 5 % and 0.1 % of the images. Stores are kept in
`--folder` and used again. Above `--store-up-to` the mirror stands alone, since it is what a search reads, and Milvus
Lite takes hours to be filled with a million vectors. Every size is measured in a process of its own.

Images are drawn scenes of 640 x 480, JPEG, or those of `--pictures`; the network is r2d2-tiny with random weights,
which costs what a trained one does.

On a machine that others use, `--cpu-seconds` counts the processor's time in place of the clock's; with `--threads 1`
that is the line on an idle core.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.search.filters import BUILT_IN, compile_conditions, parse_condition
from ccmb.search.memory_store import MemoryStore
from ccmb.search.vector_store import Entry, Store, VectorStore
from paired import claim, peak, write_report

DIM, CENTRES, SPREAD, TOP, QUERIES = 256, 800, 0.7, 100, 200
SIZES = (10_000, 100_000, 1_000_000)
FILTERS = {"plain": "", "filter 5 %": "width<50", "filter 0.1 %": "width==500"}
BATCH, FLUSH_EVERY = 2_000, 50
IMAGES, DEPTH, ROUNDS = 256, 32, 40
clock = time.perf_counter


def vectors(count: int, seed: int) -> Tensor:
    """(N, D) unit vectors around centres that are the same for every seed."""
    centres = torch.randn(CENTRES, DIM, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    near = centres[torch.randint(CENTRES, (count,), generator=generator)]
    return F.normalize(near + SPREAD * torch.randn(count, DIM, generator=generator), dim=1)


def entry(number: int) -> Entry:
    """A thousandth of all are 500 wide, and a twentieth less than 50."""
    return Entry(f"/pictures/{number % 50}", f"{number:07d}.jpg", "1-1", f"{number:032x}", "0" * 112,
                 1_600_000_000 + number, number % 1000, 480, 50_000)  # fmt: skip


def batch_of(number: int) -> tuple[list[Entry], Tensor]:
    start = number * BATCH
    return [entry(start + index) for index in range(BATCH)], vectors(BATCH, 1000 + number)


class NoStore:
    """In the place of a store that only a mirror is measured of."""

    dim = DIM

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def __enter__(self) -> NoStore:
        return self

    def __exit__(self, *_: object) -> None: ...

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        self.count += len(entries)

    def everything(self) -> tuple[()]:
        return ()

    def flush(self) -> None: ...

    def __len__(self) -> int:
        return self.count


def open_store(folder: Path, count: int, with_store: bool) -> Any:
    return VectorStore(folder / "vectors.db", DIM) if with_store else NoStore(count)


def fill(folder: Path, count: int, with_store: bool) -> float | None:
    """Seconds that writing took; None if that was done before."""
    if (folder / "filled").exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    started = clock()
    with open_store(folder, 0, with_store) as store:
        mirror = MemoryStore(store, folder / "mirror.db")
        for number in range(len(mirror) // BATCH, count // BATCH):
            mirror.upsert(*batch_of(number))
            if number % FLUSH_EVERY == FLUSH_EVERY - 1:
                mirror.flush()
                print(f"{count}: {(number + 1) * BATCH}", file=sys.stderr, flush=True)
        mirror.flush()
        mirror.close()
    (folder / "filled").touch()
    return clock() - started


def milliseconds(run: Callable[[int], object], rounds: int) -> dict[str, float]:
    run(0)
    times = []
    for number in range(rounds):
        started = clock()
        run(number)
        times.append(1000 * (clock() - started))
    return {"p50": float(np.percentile(times, 50)), "p95": float(np.percentile(times, 95))}


def exact(count: int, query_QD: Tensor) -> dict[str, list[list[int]]]:
    """For each filter and query the numbers of the best, in double precision."""
    cosine_QN = torch.cat([query_QD.double() @ batch_of(n)[1].double().T for n in range(count // BATCH)], 1)
    width_N = torch.arange(count) % 1000
    masks = {"plain": width_N >= 0, "filter 5 %": width_N < 50, "filter 0.1 %": width_N == 500}
    best = {}
    for name, mask in masks.items():
        rows = mask.nonzero().squeeze(1)
        best[name] = rows[cosine_QN[:, rows].topk(min(TOP, len(rows))).indices].tolist()
    return best


def recall(store: Store, query_QD: Tensor, tests: Any, expected: Sequence[Sequence[int]]) -> float:
    shares = []
    for query_D, numbers in zip(query_QD, expected, strict=True):
        keys = {near.key for near in store.search_many(query_D[None], TOP, [tests])[0]}
        shares.append(sum(entry(number).key in keys for number in numbers) / len(numbers))
    return float(np.mean(shares))


def measure_size(folder: Path, count: int, with_store: bool) -> dict[str, Any]:
    filled = fill(folder, count, with_store)
    query_QD = vectors(QUERIES, 1)
    before, started = _memory(), clock()
    with open_store(folder, count, with_store) as store:
        opened, held = clock() - started, _memory()
        mirror = MemoryStore(store, folder / "mirror.db")
        result: dict[str, Any] = {
            "fill_seconds": filled,
            "open_store_seconds": opened,
            "open_mirror_seconds": clock() - started - opened,
            "store_mib": held - before, "mirror_mib": _memory() - held,
            "disk_mib": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20,
        }  # fmt: skip
        expected = exact(count, query_QD[:50])
        for name, condition in FILTERS.items():
            where = [parse_condition(condition)] if condition else []
            tests = compile_conditions(where, BUILT_IN, ())

            def search(store: Store, number: int, tests: Any = tests) -> object:
                row = number % QUERIES
                (hits,) = store.search_many(query_QD[row : row + 1], TOP, [tests])
                return store.get([near.key for near in hits])

            contestants = [("mirror", mirror, QUERIES), *([("milvus", store, 20)] if with_store else [])]
            for kind, contestant, rounds in contestants:
                asked = rounds // 4
                result[f"{kind}, {name}"] = {
                    "recall": recall(contestant, query_QD[:asked], tests, expected[name][:asked]),
                    **milliseconds(lambda number, store=contestant: search(store, number), rounds),  # type: ignore[misc]
                }
        result["mirror, 16 at once"] = milliseconds(lambda number: mirror.search_many(query_QD[:16], TOP), 20)
        mirror.close()
    return result


def _memory() -> float:
    """MiB of this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return peak(torch.device("cpu")) / 2**20


def measure_queries(folder: Path, images: Path | None) -> dict[str, Any]:
    """Whole queries with the second stage: images read and encoded anew, or their states kept."""
    from ccmb.r2d2.modeling import R2D2Model
    from ccmb.r2d2.presets import preset
    from ccmb.r2d2.processing import R2D2Processor
    from ccmb.r2d2.tokenizer import train_tokenizer
    from ccmb.scenes.drawing import render_scene
    from ccmb.scenes.scene import random_scene
    from ccmb.scenes.texts import caption
    from ccmb.search.engine import open_engine
    from ccmb.search.indexing.indexer import build_index
    from ccmb.search.query import SearchQuery

    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(IMAGES)]
    texts = [caption(scene, 0, rng) for scene in scenes]
    if images is None:
        images = folder / "pictures"
        images.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes):
            render_scene(scene, 640, rng).crop((0, 80, 640, 560)).save(images / f"{number:04d}.jpg", quality=90)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, vocabulary=1000, max_length=64)
    model = R2D2Model(preset("r2d2-tiny")).eval()
    processor = R2D2Processor(tokenizer, model.config.image_size, 64)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    result: dict[str, Any] = {}
    for name, kept in (("anew", 0), ("kept in the index", 2**30)):
        out = folder / f"index {name}"
        started = clock()
        report = build_index([images], out, R2D2Stages(model, processor, source=folder / "model"), states_bytes=kept)
        result[f"index, states {name}"] = {
            "pictures_per_second": report.added / (clock() - started),
            "mib": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20,
        }
        with open_engine(out, states_bytes=0) as engine:  # nothing is kept in memory from query to query
            engine.stages.last.clock = clock

            def search(number: int, engine: Any = engine, **asked: Any) -> Any:
                return engine.search(SearchQuery(texts[number % len(texts)], k=10, depth=DEPTH, **asked))

            result[f"query, states {name}"] = milliseconds(search, ROUNDS if kept else ROUNDS // 4)
            result[f"scores, states {name}"] = [
                {hit.name: hit.match for hit in search(number).hits} for number in range(5)
            ]  # fmt: skip
            for budget in (0.05, 0.1, 0.2) if kept else ():
                answers = [search(number, budget=budget) for number in range(ROUNDS)]
                result[f"budget {budget:g} s"] = {
                    "p95": 1000 * float(np.percentile([answer.seconds["ranking"] for answer in answers], 95)),
                    "ranked": float(np.mean([answer.ranked for answer in answers])),
                    "partial": float(np.mean([answer.partial for answer in answers])),
                }
        if kept:
            with open_engine(out) as engine:
                for number in range(len(texts)):
                    engine.search(SearchQuery(texts[number], k=10, depth=DEPTH))
                result["query, states in memory"] = milliseconds(lambda number: search(number, engine), ROUNDS)
    pairs = zip(result.pop("scores, states anew"), result.pop("scores, states kept in the index"), strict=True)
    result["largest difference of a match score by float16"] = max(
        abs(one[name] - other[name]) for one, other in pairs for name in one.keys() & other.keys()
    )
    return result


def claims_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for count, measured in results["sizes"].items():
        for name in FILTERS:
            line, is_asked = measured[f"mirror, {name}"], int(count) == 100_000
            claims.append(claim(f"{int(count):,} {name}: recall@{TOP}", line["recall"], 0.99 if is_asked else None, ""))
            claims.append(claim(f"{int(count):,} {name}: p95", line["p95"], 60 if is_asked else None, "ms"))
            if alone := measured.get(f"milvus, {name}"):
                claims.append(claim(f"{int(count):,} {name}: p50 of Milvus Lite itself", alone["p50"], None, "ms"))
        claims.append(
            claim(f"{int(count):,} open", measured["open_store_seconds"] + measured["open_mirror_seconds"], None, "s")
        )
        claims.append(claim(f"{int(count):,} memory", measured["store_mib"] + measured["mirror_mib"], None, "MiB"))
    for name, line in results["queries"].items():
        if name.startswith(("query", "budget")):
            target = 300 if name.startswith("query") and "anew" not in name else None
            claims.append(claim(f"{name}, k = {DEPTH}: p95", line["p95"], target, "ms"))
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("scale"))
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--images", "--pictures", type=Path, help="folder or tar of photographs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store-up-to", type=int, default=100_000, help="largest size with Milvus behind the mirror")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu-seconds", action="store_true", help="count the processor's time, not the clock's")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cpu_seconds:
        global clock
        clock = time.process_time
    if options.one == "queries":
        print(json.dumps(measure_queries(options.folder / "queries", options.images)))
        return
    if options.one:
        count = int(options.one)
        print(json.dumps(measure_size(options.folder / options.one, count, count <= options.store_up_to)))
        return
    results: dict[str, Any] = {"cpu_seconds": options.cpu_seconds, "sizes": {}}
    for part in (*map(str, options.sizes), "queries"):
        words = [
            sys.executable,
            __file__,
            "--folder",
            str(options.folder),
            "--threads",
            str(options.threads),
            "--one",
            part,
        ]
        words += ["--store-up-to", str(options.store_up_to), *(["--cpu-seconds"] if options.cpu_seconds else [])]
        words += ["--pictures", str(options.images)] if options.images else []
        measured = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(part, json.dumps(measured), file=sys.stderr, flush=True)
        if part == "queries":
            results[part] = measured
        else:
            results["sizes"][part] = measured
    write_report(options.json, claims_of(results), results, torch.device("cpu"))


if __name__ == "__main__":
    main()
