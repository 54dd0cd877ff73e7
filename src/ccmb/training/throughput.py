"""Throughput of a run: time spent waiting for data, padding, peak memory, MFU.

Nothing here waits for the device: batches are looked at before they go there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from ccmb.training.recipe import TrainingRecipe

# What depends on the clock or the machine; all else in a log repeats exactly.
MEASURED = ("samples_per_second", "data_wait", "memory_gb", "mfu")

# Dense bf16 TFLOP/s by NVIDIA's data sheets; the first name that a device's contains counts.
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}


@runtime_checkable
class Measured(Protocol):
    """A task that can count the work of a batch."""

    def padding(self, batch: Any) -> float:
        """Share of the batch's text tokens that are padding, in [0, 1]."""

    def flops(self, batch: Any, progress: float) -> float:
        """Floating-point operations of one training step on the batch, see `ccmb.objectives.flops`."""


class Meter:
    """Measures a run by watching its batches in the training process.

    Args:
        task: where it is `Measured`, padding and MFU are reported too.
        device: that the run computes on.
    """

    def __init__(self, task: object, recipe: TrainingRecipe, device: torch.device) -> None:
        self.task, self.steps, self.device = (task if isinstance(task, Measured) else None), recipe.steps, device
        self.peak = recipe.peak_tflops or known_peak(device, recipe.precision)
        self._padding: float | None = None
        self.restart()

    def watch(self, batches: Iterable[Any], step: int) -> Iterator[Any]:
        """Yield the same batches, the first of which is that of `step`, and measure the wait for each."""
        waiting = time.monotonic()
        for batch in batches:
            self._waited += time.monotonic() - waiting
            if self.task:
                self._padding = self.task.padding(batch)
                self._flops += self.task.flops(batch, step / self.steps) if self.peak else 0.0
            yield batch
            step, waiting = step + 1, time.monotonic()

    def read(self) -> dict[str, float]:
        """Return the metrics for the log, and restart.

        `data_wait` and `mfu` are of the time since the last reading, `padding` of the latest batch (so that it
        repeats exactly), `memory_gb` (GiB) of the whole run so far: allocated on a GPU, else resident.
        """
        seconds = max(1e-9, time.monotonic() - self._since)
        metrics = {"data_wait": round(min(1.0, self._waited / seconds), 4)}
        if self._padding is not None:
            metrics["padding"] = round(self._padding, 4)
        if (memory := peak_memory(self.device)) is not None:
            metrics["memory_gb"] = round(memory / 2**30, 3)
        if self.task and self.peak:
            metrics["mfu"] = round(self._flops / (seconds * self.peak * 1e12), 4)
        self.restart()
        return metrics

    def restart(self) -> None:
        """Restart the measurement: the time since the last reading was no training."""
        self._since, self._waited, self._flops = time.monotonic(), 0.0, 0.0


def known_peak(device: torch.device, precision: str = "auto") -> float | None:
    """Dense bf16 TFLOP/s of a device, or None where it is not known or the run is not in bf16."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_TFLOPS.items() if known in name), None)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: allocated on a GPU, else resident; None where the system does not count."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
