"""The numbers of a transfer matrix: what models keep in languages that they were not trained on, and mean ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.tasks.retrieval.columns import Column
from ccmb.tasks.retrieval.language_report import main_metric
from ccmb.tasks.transfer.trained_on import TrainedOn

Values = dict[str, Any]


def matrix(columns: Sequence[Column], rows: Sequence[tuple[str, TrainedOn, Mapping[str, Values]]]) -> list[Values]:
    """One entry for each model: its metrics by column, what it keeps of its own languages, and its mean rank.

    Args:
        rows: name, training and `of_language` by column of each model.
    """
    written = [column.name for column in columns if column.into is None]
    places = _mean_ranks(written, [metrics for _, _, metrics in rows])
    entries = []
    for (name, trained, metrics), place in zip(rows, places, strict=True):
        known = {column: value for column in written if (value := main_metric(metrics.get(column))) is not None}
        own = [known[tag] for tag in trained.languages if tag in known]
        best = sum(own) / len(own) if own else None
        shares = {tag: round(value / best, 3) for tag, value in known.items()} if best else {}
        others = [share for tag, share in shares.items() if tag not in trained.languages]
        entries.append(
            {
                "name": name,
                "trained_on": list(trained.languages),
                "images": trained.images,
                "after": trained.after,
                "metrics": dict(metrics),
                "share_of_own": shares,
                "share_of_own_elsewhere": round(sum(others) / len(others), 3) if others else None,
                "mean_rank": place,
            }
        )
    return entries


def _mean_ranks(columns: Sequence[str], rows: Sequence[Mapping[str, Values]]) -> list[float | None]:
    """The mean over languages of each model's place among all models, from 1; equal ones share the mean of theirs."""
    places: list[list[float]] = [[] for _ in rows]
    for column in columns:
        values = [main_metric(row.get(column)) for row in rows]
        if None in values:
            continue
        for own, value in zip(places, values, strict=True):
            better = sum(other > value for other in values)  # type: ignore[operator]
            equal = sum(other == value for other in values)
            own.append(better + (equal + 1) / 2)
    return [round(sum(own) / len(own), 2) if own else None for own in places]
