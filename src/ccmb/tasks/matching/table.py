"""Metrics of labelled pairs as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def matching_table(report: dict[str, Any]) -> str:
    """Metrics of labelled pairs with their intervals, in percent, as lines of text."""
    lines = [f"{report['pairs']} pairs of {report['pictures']} images, {report['matches']} of them matches"]
    ranks = report["stage"] == "ranking"
    lines[0] += "" if ranks else "; no cross encoders, so the cosine alone scores them"
    of_stage = {"ranking": report, "pre-ranking": report["pre_ranking"]} if ranks else {"pre-ranking": report}
    rows = [["", *of_stage]]
    for name, label in _MATCHING.items():
        known = [metrics.get(name) for metrics in of_stage.values()]
        if any(value is not None for value in known):
            cells = [
                "-" if value is None else f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
                for value, metrics in zip(known, of_stage.values(), strict=True)
                for low, high in [metrics["interval"].get(name, (0, 0))]
            ]
            rows.append([label, *cells])
    lines += aligned(rows, (36, *[24] * len(of_stage)))
    fitted = report["fitted"]
    lines.append(f"fitted on {fitted['on']}" if fitted else "too little of both labels to fit a threshold on")
    return "\n".join(lines)


_MATCHING = {
    "auc": "AUC",
    "accuracy": "accuracy at probability 0.5",
    "accuracy_fitted": "accuracy at a fitted threshold",
    "calibration_error": "calibration error",
    "calibration_error_fitted": "calibration error, fitted",
}
