"""Metrics of a run with intervals, and the difference of two runs, by a bootstrap over queries."""

from __future__ import annotations

from typing import Any

import numpy as np

from ccmb.core.errors import CcmbError
from ccmb.tasks.rankings.files import Qrels, Run
from ccmb.tasks.rankings.metrics import QueryMetrics, measure_run

DRAWS = 1000
LOW, HIGH = 2.5, 97.5  # of drawn values: a 95 % interval


def score_run(
    run: Run, qrels: Qrels, against: Run | None = None, relevant_from: int = 1, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Metrics as shares in [0, 1], each with a 95 % interval over queries; with another run, the paired differences.

    Queries that the run lacks count as 0, and are counted.

    Raises:
        CcmbError: the truth has no relevant document.
    """
    measured = measure_run(run, qrels, relevant_from)
    if not measured.queries:
        raise CcmbError(f"no document of the qrels has grade {relevant_from} or more")
    weights = _weights(len(measured.queries), draws, seed)
    report: dict[str, Any] = {
        "queries": len(measured.queries),
        "missing_queries": measured.missing,
        "unjudged_queries": sum(query not in qrels for query in run),
        "relevant_from": relevant_from,
        "metrics": _with_intervals(measured, weights),
    }
    if against is not None:
        other = measure_run(against, qrels, relevant_from)
        report["difference"] = _differences(measured, other, weights)
    return report


def _weights(queries: int, draws: int, seed: int) -> np.ndarray:
    """(draws, Q) how often each query is drawn."""
    return np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), size=draws).astype(float)


def _with_intervals(measured: QueryMetrics, weights: np.ndarray) -> dict[str, Any]:
    drawn = [measured.means(row) for row in weights]
    return {name: _interval(value, [draw[name] for draw in drawn]) for name, value in measured.means().items()}


def _differences(one: QueryMetrics, other: QueryMetrics, weights: np.ndarray) -> dict[str, Any]:
    first, second = one.means(), other.means()
    drawn = [(one.means(row), other.means(row)) for row in weights]
    return {
        name: _interval(
            first[name] - second[name], [one_draw[name] - other_draw[name] for one_draw, other_draw in drawn]
        )
        for name in first
    }


def _interval(value: float, drawn: list[float]) -> dict[str, float]:
    low, high = np.percentile(drawn, [LOW, HIGH])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
