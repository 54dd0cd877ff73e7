"""Held-out data while a run goes on: when it is measured, and what its metrics are called in the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

PREFIX = "val_"


@dataclass(frozen=True, slots=True)
class Validation:
    """What is measured every so many steps and after the last one.

    Attributes:
        every: steps, at least one.
        measure: metrics by name of the weights as they are; it may leave modules in evaluation mode.
    """

    every: int
    measure: Callable[[], Mapping[str, float]]

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the weights after `step` of `steps` steps are measured."""
        return step % self.every == 0 or step == steps

    def metrics(self) -> dict[str, float]:
        """The metrics by their names in the log."""
        return {PREFIX + name: value for name, value in self.measure().items()}
