"""Paired timings: contestants take turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import json
import platform
import random
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(slots=True)
class Contestant:
    """What is timed: `run(round)` does one step; `seconds` holds what each took, `peak` the most memory (bytes)."""

    name: str
    run: Callable[[int], None]
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    contestants: Sequence[Contestant],
    rounds: int,
    device: torch.device,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Time all in each round, in an order that turns; the first rounds only warm up."""
    for number in range(warm_up + rounds):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            reset_peak(device)
            synchronise(device)
            start = clock()
            contestant.run(number)
            synchronise(device)
            seconds = clock() - start
            contestant.peak = max(contestant.peak, peak(device))
            if number >= warm_up:
                contestant.seconds.append(seconds)


def median_ratio(slow: Contestant, fast: Contestant, resamples: int = 2000) -> tuple[float, float, float]:
    """Median of the rounds' ratios, and its 95 % interval by the bootstrap."""
    ratios = [one / other for one, other in zip(slow.seconds, fast.seconds, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(resamples))
    return statistics.median(ratios), medians[round(0.025 * resamples)], medians[round(0.975 * resamples) - 1]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone has it; elsewhere the peak is the whole process's
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Bytes at the most since the reset: of the GPU, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def claim(name: str, value: float, target: float | None, unit: str) -> dict[str, Any]:
    return {"name": name, "value": float(f"{value:.4g}"), "target": target, "unit": unit}


def write_report(
    path: Path | None, claims: list[dict[str, Any]], results: dict[str, Any], device: torch.device
) -> None:
    """Print the claims as a table, and write them with all results as JSON."""
    print("\n| claim | value | target |\n|---|--:|--:|")
    for claim_line in claims:
        target = "" if claim_line["target"] is None else f"{claim_line['target']:g} {claim_line['unit']}"
        print(f"| {claim_line['name']} | {claim_line['value']:.3g} {claim_line['unit']} | {target} |")
    if path is not None:
        report = {"claims": claims, "machine": machine(device), "commit": commit(), "results": results}
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine(device: torch.device) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    setup = {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return setup | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def commit() -> str:
    """Of the checkout this file is in, with a plus if files have changed since."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
