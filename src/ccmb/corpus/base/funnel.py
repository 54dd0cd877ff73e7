"""What each step of a build kept, and what it dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One step: its unit, the rows that came in, and the dropped rows by reason."""

    name: str
    unit: str
    rows: int
    dropped: dict[str, int]

    @property
    def kept(self) -> int:
        return self.rows - sum(self.dropped.values())


@dataclass(slots=True)
class Funnel:
    """All steps, in order."""

    steps: list[FunnelStep] = field(default_factory=list)

    def add(self, name: str, unit: str, counts: Mapping[str | None, int], rows: int | None = None) -> None:
        """Add a step, given the rows of each reason (None: kept).

        Raises:
            CcmbError: the counts do not add up to the rows that came in: some were lost or doubled.
        """
        total = sum(counts.values())
        if rows is not None and rows != total:
            raise CcmbError(f"step '{name}' was given {rows} {unit} and accounts for {total}; the build is not sound")
        dropped = {reason: count for reason, count in counts.items() if reason is not None and count}
        ordered = dict(sorted(dropped.items(), key=lambda entry: (-entry[1], entry[0])))
        self.steps.append(FunnelStep(name, unit, total, ordered))

    def __getitem__(self, name: str) -> FunnelStep:
        return next(step for step in self.steps if step.name == name)

    def write(self, path: Path) -> None:
        write_json(path, {"steps": [{**asdict(step), "kept": step.kept} for step in self.steps]})


def read_funnel(path: Path) -> Funnel:
    """Read a funnel that `Funnel.write` wrote.

    Raises:
        CcmbError: the file cannot be read.
    """
    steps: list[dict[str, Any]] = read_json(path)["steps"]
    return Funnel([FunnelStep(step["name"], step["unit"], step["rows"], step["dropped"]) for step in steps])
