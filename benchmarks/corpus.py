"""How fast logs become pairs, and in how much memory: the text and click part of the corpus.

    python benchmarks/corpus.py --impressions 1000000 10000000 --json corpus.json

Logs of the simulated search engine (its pages and all planted faults with them) go through the whole of `build_pairs`,
each in a process of its own, so that its peak of memory is that of one build. A second run of `--texts` captions from a
list of links is all texts and no clicks. Rows are impressions and pages, or captions.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ccmb.corpus.base.daft_engine import ROWS_PER_BUCKET, run_in_process, use_runner
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.inputs.tables import Inputs
from ccmb.corpus.pairs.build import Build
from ccmb.corpus.simulation.logs import simulate
from ccmb.corpus.simulation.pages import SimulatedWeb
from ccmb.scenes.scene import random_scene
from ccmb.scenes.texts import describe
from paired import claim, peak, write_report

ROWS_PER_SECOND = 100_000.0
FLAT = 1.5  # memory of the largest log, in times that of the smallest
IMPRESSIONS_OF_A_IMAGE = 800
CPU = torch.device("cpu")


def main(words: list[str] | None = None) -> None:
    options = parse(words)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="corpus-"))
    try:
        logs = [measure_log(folder, count, options) for count in options.impressions]
        texts = measure_texts(folder, options.texts, options) if options.texts else None
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    claims = [
        claim(f"rows per second, log of {run['impressions']:,}", run["rows_per_second"], ROWS_PER_SECOND, "rows/s")
        for run in logs
    ]
    if len(logs) > 1:
        first, last = logs[0], logs[-1]
        name = f"peak memory, {last['impressions']:,} to {first['impressions']:,} impressions"
        claims.append(claim(name, last["peak_bytes"] / first["peak_bytes"], FLAT, "x"))
    if texts is not None:
        claims.append(claim("captions per second, clicks apart", texts["rows_per_second"], None, "rows/s"))
    write_report(options.json, claims, {"logs": logs, "texts": texts}, CPU)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, nargs="+", default=[1_000_000], help="sizes of the logs")
    parser.add_argument("--texts", type=int, default=100_000, help="captions of the list of links; 0 for none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows-per-bucket", type=int, default=ROWS_PER_BUCKET)
    parser.add_argument("--folder", help="keep logs and corpora here, and take what is there")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def measure_log(folder: Path, impressions: int, options: argparse.Namespace) -> dict[str, Any]:
    web = folder / f"web-{impressions}"
    images = max(2, impressions // IMPRESSIONS_OF_A_IMAGE)
    if not (web / "truth.json").exists():
        simulate(web, SimulatedWeb(images=images, impressions=impressions, draw=False))
    inputs = Inputs(impressions=[str(web / "impressions")], pages=[str(web / "pages.jsonl")])
    return {"impressions": impressions, **measure(folder, inputs, options)}


def measure_texts(folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Five captions of each image."""
    path, rng = folder / f"links-{count}.tsv", random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(-(-count // 5)):
            lines = describe(random_scene(rng), rng).captions
            file.writelines(f"http://example.com/{number}.jpg\t{line}\n" for line in lines)
    return {"texts": count, **measure(folder, Inputs(links=[str(path)]), options)}


def measure(folder: Path, inputs: Inputs, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of builds, each in a process of its own."""
    runs = [
        run_in_process(timed_build, inputs, folder / "built", options.rows_per_bucket) for _ in range(options.repeats)
    ]
    seconds = statistics.median(run["seconds"] for run in runs)
    measured = {
        "rows": runs[0]["rows"], "pairs": runs[0]["pairs"], "rows_per_second": runs[0]["rows"] / seconds,
        "peak_bytes": max(run["peak_bytes"] for run in runs), "seconds": [run["seconds"] for run in runs],
        "steps": {name: statistics.median(run["steps"][name] for run in runs) for name in runs[0]["steps"]},
    }  # fmt: skip
    print(json.dumps({name: measured[name] for name in ("rows", "pairs", "rows_per_second", "peak_bytes", "steps")}))
    return measured


def timed_build(inputs: Inputs, out: Path, rows_per_bucket: int) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    use_runner()
    start = time.perf_counter()
    build = Build(inputs, CorpusRecipe(), out, rows_per_bucket)
    funnel = build.run()
    seconds = time.perf_counter() - start
    tables = (build.log, build.pages, build.links)
    rows = sum(table.read().agg(table.read()["damaged"].count()).to_pydict()["damaged"][0] for table in tables if table)
    return {
        "seconds": seconds, "rows": rows, "pairs": funnel["pairs"].kept, "peak_bytes": peak(CPU),
        "steps": build.steps.seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
