"""Models side by side on one set: metrics, intervals, and gains whose intervals are paired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccmb.tasks.common.resampling import bounded_interval, bounds_of, gain, interval
from ccmb.tasks.finetuning.finetuner import DrawnMetrics

Metric = dict[str, float]


def compare(results: Mapping[float, DrawnMetrics]) -> dict[str, Any]:
    """The model before (share 0), the one after (share 1) and those between, as plain values.

    Returns:
        `metrics`: by name, `before` and `after` (None where a model lacks the metric), `gain`, and `shares` by share;
        each with value and 95 % interval, that of the gain over the same items in both. `details`: both reports.
    """
    before, after = results[0.0], results[1.0]
    metrics = {}
    for name in dict.fromkeys([*before.values, *after.values]):
        of_share = {f"{share:g}": _metric(measured, name) for share, measured in sorted(results.items())}
        metrics[name] = {
            "before": of_share["0"],
            "after": of_share["1"],
            "gain": _gain(before, after, name),
            "shares": of_share if len(results) > 2 else {},
        }
    return {"figures": metrics, "details": {"before": before.details, "after": after.details}}


def _metric(measured: DrawnMetrics, name: str) -> Metric | None:
    if name not in measured.values:
        return None
    value = measured.values[name]
    low, high = bounded_interval(value, measured.draws[name], measured.units, bounds_of(name), counted=measured.counted)
    return {"value": round(value, 2), "low": low, "high": high}


def _gain(before: DrawnMetrics, after: DrawnMetrics, name: str) -> Metric | None:
    if name not in before.values or name not in after.values:
        return None
    value, draws = after.values[name] - before.values[name], after.draws[name] - before.draws[name]
    if after.counted:
        difference = gain(value, draws, after.units)
        return {"value": difference["mean"], "low": difference["low"], "high": difference["high"]}
    low, high = interval(draws, after.units)
    return {"value": round(value, 2), "low": low, "high": high}
