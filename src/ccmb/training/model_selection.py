"""The best checkpoint by a logged metric: it is marked in `checkpoints/best.json` and never removed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, read_json_lines, write_json
from ccmb.training.recipe import BestRecipe

FILE_NAME = "best.json"


def read_best(folder: Path) -> dict[str, Any] | None:
    """`step`, `metric` and `value` of the best checkpoint of a folder, or None where none is marked."""
    if not (folder / FILE_NAME).exists():
        return None
    try:
        best = read_json(folder / FILE_NAME)
    except CcmbError:
        return None  # only a hand can have damaged it; the next checkpoint is compared with none
    return best if isinstance(best, dict) and isinstance(best.get("step"), int) else None


def best_step(folder: Path) -> int | None:
    """The step of the best checkpoint, or None."""
    best = read_best(folder)
    return best["step"] if best else None


def judge(folder: Path, log: Path, step: int, window: int, rule: BestRecipe) -> bool:
    """Mark the checkpoint of `step` if it is better than the one marked before; return whether it is.

    The metric of a single step is mostly noise, so a checkpoint counts with the mean over the lines of the last
    `window` steps. It is read from the log: a run that was stopped marks the same checkpoints as one that was not.
    """
    values = list(_values(log, rule.metric, step - window, step))
    if not values:
        return False
    value = sum(values) / len(values)
    before = read_best(folder)
    if before and before["figure"] == rule.metric and before["step"] != step:
        better = value < before["value"] if rule.mode == "min" else value > before["value"]
        if not better:
            return False
    write_json(folder / FILE_NAME, {"step": step, "figure": rule.metric, "value": value})
    return True


def forget_after(folder: Path, step: int) -> None:
    """Remove the mark if it is of a step after `step`, from which the run goes on."""
    best = best_step(folder)
    if best is not None and best > step:
        (folder / FILE_NAME).unlink(missing_ok=True)


def _values(log: Path, metric: str, after: int, until: int) -> Iterator[float]:
    if not log.exists():
        return
    for _, line in read_json_lines(log):
        value = line.get(metric)
        if after < line["step"] <= until and isinstance(value, int | float) and math.isfinite(value):
            yield float(value)
