"""What a check before training has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result.

    Attributes:
        check: its name in a word or two.
        level: a problem stops the run or makes it worthless; a warning costs quality or time.
        message: what was found, with the figure.
        mend: what to do; empty where all is well.
    """

    check: str
    level: Level
    message: str
    mend: str = ""


def graded(check: str, value: float, *, warning: float, problem: float, message: str, mend: str) -> Finding:
    """A finding whose level grows with a value: from `warning` on a warning, from `problem` on a problem."""
    level: Level = "problem" if value >= problem else "warning" if value >= warning else "ok"
    return Finding(check, level, message, "" if level == "ok" else mend)


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings as lines of text, each with its mend below."""
    width = max((len(found.check) for found in findings), default=0)
    lines = []
    for found in findings:
        lines.append(f"{found.level:8} {found.check:{width}}  {found.message}")
        if found.mend:
            lines.append(f"{'':8} {'':{width}}  -> {found.mend}")
    counts = [(sum(found.level == level for found in findings), level) for level in ("problem", "warning")]
    return "\n".join([*lines, ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for count, level in counts)])


def share(part: float, whole: float) -> float:
    """part / whole, 0 of nothing."""
    return part / whole if whole else 0.0


def in_percent(value: float) -> str:
    return f"{100 * value:.1f} %"
