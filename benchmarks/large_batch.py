"""Memory of a step by its batch, all at once and in chunks whose activations are computed anew.

    python benchmarks/large_batch.py --shape tiny --json memory.json

Each metric is a process of its own that does one step (forward and backward): its peak resident memory less what it
held before. Both ways must come to the same losses.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ccmb.core.device import precision
from paired import claim, write_report
from step_shapes import draw_lengths, make_batch, new_training

CPU = torch.device("cpu")
CLOSE = 1e-4


def measure(shape: str, count: int, chunk: int | None) -> dict[str, Any]:
    """Peak memory in MiB that a step adds, and its losses."""
    torch.set_num_threads(1)
    training = new_training(shape, 1024, CPU)
    training.chunk = chunk
    config = training.model.config
    lengths = draw_lengths(count, config.max_text_tokens, 0)
    batch = make_batch(config, lengths, max(lengths), 0)
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = _peak()
    with precision(CPU, "fp32"):
        losses = training(batch, 0.5, torch.Generator().manual_seed(0))
    training.total(losses).backward()
    return {"mib": _peak() - before, "losses": {name: float(loss.detach()) for name, loss in losses.items()}}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(shape: str, count: int, chunk: int | None) -> dict[str, Any]:
    arguments = ["--shape", shape, "--one", str(count), *(["--chunk", str(chunk)] if chunk else [])]
    run = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return measured


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["test", "tiny", "base"], default="tiny", help="a preset's")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--chunk", type=int, default=None, help="pairs at a time; by default 8")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    if options.one:
        print(json.dumps(measure(options.shape, options.one, options.chunk)))
        return {}
    chunk, rows = options.chunk or 8, []
    print("| batch | all at once, MiB | in chunks, MiB |\n|--:|--:|--:|")
    for count in options.batches:
        plain, chunked = (in_a_process(options.shape, count, size) for size in (None, chunk))
        difference = max(abs(plain["losses"][name] - chunked["losses"][name]) for name in plain["losses"])
        assert difference < CLOSE, f"batch {count}: losses differ by {difference}"
        rows.append({"batch": count, "plain": plain["mib"], "chunked": chunked["mib"], "difference": difference})
        print(f"| {count} | {plain['mib']:.0f} | {chunked['mib']:.0f} |")
    first, last = rows[0], rows[-1]
    more = last["batch"] - first["batch"]
    growth = {key: (last[key] - first[key]) / more for key in ("plain", "chunked")}
    claims = [
        claim(f"step of {options.shape}: memory of one more pair, all at once", growth["plain"], None, "MiB"),
        claim(f"step of {options.shape}: memory of one more pair, in chunks", growth["chunked"], None, "MiB"),
        claim(f"step of {options.shape}: largest difference of losses", max(r["difference"] for r in rows), CLOSE, ""),
    ]
    write_report(options.json, claims, {"shape": options.shape, "chunk": chunk, "rows": rows}, CPU)
    return {"claims": claims, "results": rows}


if __name__ == "__main__":
    main()
