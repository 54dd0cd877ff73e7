"""Validation during a run: when held-out data are measured, and the names of the metrics in the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

PREFIX = "val_"


@dataclass(frozen=True, slots=True)
class Validation:
    """A measurement every `interval` steps and after the last one.

    Attributes:
        interval: steps, at least one.
        measure: returns metrics of the current weights by name; it may leave modules in evaluation mode.
    """

    interval: int
    measure: Callable[[], Mapping[str, float]]

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the weights after `step` of `steps` steps are measured."""
        return step % self.interval == 0 or step == steps

    def metrics(self) -> dict[str, float]:
        """The metrics by their names in the log."""
        return {PREFIX + name: value for name, value in self.measure().items()}
