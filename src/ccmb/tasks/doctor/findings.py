"""The results of checks before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check's result.

    Attributes:
        check: its name in a word or two.
        level: a problem stops the run or makes it worthless; a warning costs quality or time.
        message: the result in words, with the metric.
        fix: what to do; empty if all is well.
    """

    check: str
    level: Level
    message: str
    fix: str = ""


def graded(check: str, value: float, *, warning: float, problem: float, message: str, fix: str) -> CheckResult:
    """A result whose level depends on a value: a warning from `warning` on, a problem from `problem` on."""
    level: Level = "problem" if value >= problem else "warning" if value >= warning else "ok"
    return CheckResult(check, level, message, "" if level == "ok" else fix)


def results_table(findings: Sequence[CheckResult]) -> str:
    """The results as lines of text, each with its fix below."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:8} {finding.check:{width}}  {finding.message}")
        if finding.fix:
            lines.append(f"{'':8} {'':{width}}  -> {finding.fix}")
    counts = [(sum(finding.level == level for finding in findings), level) for level in ("problem", "warning")]
    return "\n".join([*lines, ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for count, level in counts)])


def share(part: float, whole: float) -> float:
    """part / whole; 0 if the whole is 0."""
    return part / whole if whole else 0.0


def in_percent(value: float) -> str:
    return f"{100 * value:.1f} %"
