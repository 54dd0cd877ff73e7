"""Metrics of generated images as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def generation_table(report: dict[str, Any]) -> str:
    """Metrics of generated images as lines of text: chosen images beside those that were sampled first."""
    sampling, first, gain = report["painting"], report.get("first"), report.get("gain", {})
    head = (
        f"{report['pictures']} images, {sampling['steps']} steps, guidance {sampling['guidance']:g}; "
        f"judge: {report['judge']}; features: {report['features']}"
    )
    columns = {"first": first, f"best of {sampling['best_of']}": report} if first else {"": report}
    rows = [["", *columns]]
    for name in report["interval"]:
        low, high = report["interval"][name]
        after = f"  ({low:.1f} to {high:.1f})"
        if name in gain:
            mean, low, high = gain[name]
            after += f"  gain {mean:+.2f} ({low:+.1f} to {high:+.1f})"
        rows.append([name.replace("_", " "), *(f"{column[name]:.2f}" for column in columns.values()), after])
    for name in ("FID", "KID"):
        rows.append([name, *(f"{column[name]:.4f}" for column in columns.values())])
    return "\n".join([head, *aligned(rows, (28, *[14] * len(columns)))])
