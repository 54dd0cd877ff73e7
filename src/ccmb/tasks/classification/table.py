"""Accuracies as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def classification_table(report: dict[str, Any]) -> str:
    """Accuracies of both stages with their intervals, as lines of text."""
    lines = [f"{report['pictures']} images, {report['classes']} classes"]
    if report["classes_with_pictures"] < report["classes"]:
        lines[0] += f", {report['classes_with_pictures']} of them with images"
    rows = [["", "top-1", "top-5", "mean per class"]]
    for stage, values in (("pre-ranking", report), ("ranking", report.get("ranking"))):
        if values:
            metrics = (
                f"{values[name]:.1f} ({low:.1f} to {high:.1f})" for name, (low, high) in values["interval"].items()
            )
            rows.append([stage, *metrics])
    return "\n".join(lines + aligned(rows, (13, 22, 22, 22)))
