"""The numbers of an ablation: means and deviations over seeds, and paired differences over the same images.

Images are drawn with replacement, each with all its queries in both directions; in every draw the seeds are averaged.
Equal draws serve all rungs, so that differences are paired by image. Such an interval says what other images would
change, with these seeds; the deviation over seeds, and in how many of them a difference has its sign, say what other
seeds would.

Shapes: D directions, G images (or what else is resampled as one), N draws, 3 recalls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccmb.inference.two_stage import Direction
from ccmb.tasks.ablation.evaluation import STAGES, Measured
from ccmb.tasks.ablation.ladder import Rung
from ccmb.tasks.common.resampling import DRAWS, bounded_interval, gain
from ccmb.tasks.retrieval.metrics import RECALLS, bootstrap_recalls, hits_by_image

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one stage of one rung and seed within each k (D, G, 3), and the queries of each image (D, G)."""

    hits_DG3: np.ndarray
    queries_DG: np.ndarray
    directions: tuple[Direction, ...]

    def recalls(self) -> np.ndarray:
        """(1, D, 3) in percent, of all images as they are."""
        shares_D3 = self.hits_DG3.sum(1) / self.queries_DG.sum(1)[:, None]
        return 100 * shares_D3[None]


def hits_of(measured: Measured) -> dict[str, Hits]:
    """The hits of each stage that a run has."""
    return {
        stage: Hits(*hits_by_image(ranks, measured.unit_N), tuple(ranks)) for stage, ranks in measured.ranks.items()
    }


def metrics(recalls_ND3: np.ndarray, directions: Sequence[Direction]) -> dict[str, np.ndarray]:
    """(N,) each recall by direction, such as `text_to_image_R@1`, and `mean_recall`."""
    named = {
        f"{direction}_R@{k}": recalls_ND3[:, row, column]
        for row, direction in enumerate(directions)
        for column, k in enumerate(RECALLS)
    }
    return {**named, "mean_recall": recalls_ND3.mean((1, 2))}


class Seeds:
    """One stage of one rung over its seeds."""

    def __init__(self, of_seed: Mapping[int, Hits], draws: int = DRAWS) -> None:
        self.of_seed, self.count = dict(of_seed), draws
        self.values = {seed: _scalars(metrics(hits.recalls(), hits.directions)) for seed, hits in of_seed.items()}
        self._drawn: dict[tuple[int, ...], dict[str, np.ndarray]] = {}

    def drawn(self, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """(N,) each metric by draw, averaged over some seeds."""
        key = tuple(seeds)
        if key not in self._drawn:
            some = [self.of_seed[seed] for seed in seeds]
            mean_DG3 = np.mean([hits.hits_DG3 for hits in some], axis=0)
            recalls_ND3 = bootstrap_recalls(mean_DG3, some[0].queries_DG, self.count)
            self._drawn[key] = metrics(recalls_ND3, some[0].directions)
        return self._drawn[key]

    @property
    def units(self) -> int:
        return next(iter(self.of_seed.values())).hits_DG3.shape[1]

    def summary(self) -> Values:
        """Each metric with its mean, deviation, interval and value by seed."""
        drawn = self.drawn(list(self.of_seed))
        result = {}
        for name, draws in drawn.items():
            by_seed = {str(seed): round(values[name], 2) for seed, values in self.values.items()}
            exact = [values[name] for values in self.values.values()]
            low, high = bounded_interval(_mean(exact), draws, self.units, counted=True)
            result[name] = {**_centre(exact), "low": low, "high": high, "seeds": by_seed}
        return result


def difference(after: Seeds, before: Seeds) -> Values | None:
    """Each metric's difference over the seeds that both have; None where there is none."""
    seeds = [seed for seed in after.of_seed if seed in before.of_seed]
    if not seeds:
        return None
    drawn_after, drawn_before = after.drawn(seeds), before.drawn(seeds)
    result = {}
    for name, draws in drawn_after.items():
        exact = [after.values[seed][name] - before.values[seed][name] for seed in seeds]
        mean = _mean(exact)
        ends = gain(mean, draws - drawn_before[name], after.units)
        result[name] = {
            **_centre(exact),
            "low": ends["low"],
            "high": ends["high"],
            "excludes_zero": ends["low"] > 0 or ends["high"] < 0,
            "same_sign": sum(value * mean > 0 for value in exact),
            "seeds": {str(seed): round(value, 2) for seed, value in zip(seeds, exact, strict=True)},
        }
    return result


def compare_rungs(
    ladder: Sequence[Rung], measured: Mapping[str, Mapping[int, Measured]], draws: int = DRAWS
) -> dict[str, Values]:
    """The numbers of every rung on one field.

    Args:
        measured: by rung and seed; a rung without a finished run is left out.

    Returns:
        By rung: `pre_ranking` and `ranking` (None where it has no second stage), `ranking_gain` of the second stage
        over the first, and `to_previous` and `to_first`: differences of each stage that both have and of the
        `last_stage` that each has, with the name of the other `rung`; None for the first.
    """
    stages = {name: _stages(of_seed, draws) for name, of_seed in measured.items() if of_seed}
    first = ladder[0].name
    result = {}
    for rung in ladder:
        if rung.name not in stages:
            continue
        own = stages[rung.name]
        ranked = own.get("ranking")
        result[rung.name] = {
            **{stage: own[stage].summary() if stage in own else None for stage in STAGES},
            "ranking_gain": difference(ranked, own["pre_ranking"]) if ranked else None,
            "to_previous": _to(rung.compared_with, own, stages),
            "to_first": _to(None if rung.name == first else first, own, stages),
        }
    return result


def _stages(of_seed: Mapping[int, Measured], draws: int) -> dict[str, Seeds]:
    hits = {seed: hits_of(measured) for seed, measured in of_seed.items()}
    names = [stage for stage in STAGES if all(stage in one for one in hits.values())]
    return {stage: Seeds({seed: one[stage] for seed, one in hits.items()}, draws) for stage in names}


def _to(other: str | None, own: Mapping[str, Seeds], stages: Mapping[str, Mapping[str, Seeds]]) -> Values | None:
    if other is None or other not in stages:
        return None
    its = stages[other]
    pairs = {stage: (own[stage], its[stage]) for stage in STAGES if stage in own and stage in its}
    pairs["last_stage"] = list(own.values())[-1], list(its.values())[-1]
    return {"rung": other, **{name: difference(*pair) for name, pair in pairs.items()}}


def _scalars(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in values.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _centre(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation over seeds; of a single seed there is no deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": round(_mean(values), 2), "std": None if deviation is None else round(deviation, 2)}
