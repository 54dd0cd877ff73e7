"""What is kept of a step whose loss or gradient was not finite: enough to repeat it and to look at its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.files import write_json
from ccmb.training.distributed import world


@runtime_checkable
class Describes(Protocol):
    """A task that can say what a batch holds."""

    def describe(self, batch: Any) -> dict[str, Any]:
        """Plain values for a JSON file, such as the names of the samples."""


def save_nonfinite_step(
    out: Path, task: object, step: int, batch: Any, losses: Mapping[str, Tensor], norm: Tensor, seed: int, fix: str
) -> CcmbError:
    """Write `stopped/step-N.json` into the run folder and return the error that tells of it.

    Args:
        step: the number of steps done before this one.
        norm: of the gradient.
        seed: that all chance of the step comes from.
        fix: what to do, see `what_to_lower`.
    """
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    what = "gradient" if all(map(math.isfinite, values.values())) else "loss"
    if what == "gradient" and math.isfinite(norm):
        what = "loss of another process"
    rank = world().rank
    path = out / "stopped" / (f"step-{step}-rank-{rank}.json" if rank else f"step-{step}.json")
    nonfinite_step = {
        "step": step,
        "losses": {name: _plain(value) for name, value in values.items()},
        "gradient_norm": _plain(float(norm)),
        "seed": seed,
        **(task.describe(batch) if isinstance(task, Describes) else {}),
    }
    try:
        write_json(path, nonfinite_step)
        where = f"its batch is in {path}"
    except CcmbError as error:
        where = f"its batch could not be kept ({error})"
    words = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return CcmbError(
        f"step {step}: the {what} is not finite ({words}); {fix}; {where}, checkpoints are in {out / 'checkpoints'}"
    )


def what_to_lower(precision: str, in_bf16: bool, lr: float | None = None) -> str:
    """What to do where numbers overflow, by what was set.

    Args:
        precision: as the recipe has it.
        in_bf16: what that comes to on the run's device.
        lr: peak learning rate, where it is known.
    """
    lower = "lower optimizer.lr" + ("" if lr is None else f" (it is {lr:g})")
    if not in_bf16:
        return f"{lower}; training.precision={precision} computes in fp32 already"
    here = "" if precision == "bf16" else f", which {precision} comes to here"
    return f"{lower}, or set training.precision=fp32 (it is bf16{here})"


def _plain(value: float) -> float | str:
    """JSON has no word for numbers that are not finite."""
    return value if math.isfinite(value) else str(value)
