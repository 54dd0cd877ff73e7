"""Resampling: how much a metric would vary on other images of the same kind.

What is drawn with replacement is units, each with all that belongs to it: mostly images, whose texts hang together;
texts where these have several images, or are what is painted from. All 95 % intervals of the package are made here,
but for those of the calibration error (`ccmb.tasks.matching.calibration_error`), whose bias no drawing shows.

Shapes: G units, N items of theirs, K metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

DRAWS = 2000
_AT_ONCE = 50  # draws that are held at a time
Z = 1.959964  # of 95 %
SINGLE = 8  # units, see `bounded_interval`
# From weights (B, N) of items to the values (B,) of a metric.
Metric = Callable[[np.ndarray], np.ndarray]
PERCENT = (0.0, 100.0)
# Of metrics in percent that lie elsewhere.
_BOUNDS = {"CIDEr-D": (0.0, 1000.0), "cosine": (-100.0, 100.0)}


def bounds_of(name: str) -> tuple[float, float]:
    """The bounds of a metric in percent."""
    return _BOUNDS.get(name, PERCENT)


def drawn_weights(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """For each draw, (count,) how often each unit is drawn with replacement.

    Equal seeds draw the same units: differences between models on the same ones are then paired.
    """
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, count, count), minlength=count)


def draw_metrics(metrics: Sequence[Metric], unit_N: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, K) values of metrics of N items; units are drawn, each with all its items.

    Args:
        metrics: each takes the weights of the items; not a number where it cannot be told of them.
        unit_N: the number of each item's unit, from 0.
    """
    weights, values = drawn_weights(int(unit_N.max()) + 1, draws, seed), list[np.ndarray]()
    while block := list(islice(weights, _AT_ONCE)):
        weight_BN = np.stack(block)[:, unit_N].astype(np.float64)
        values.append(np.stack([metric(weight_BN) for metric in metrics], axis=1))
    return np.concatenate(values)


def on_all(metric: Metric, items: int) -> float:
    """The metric of all items as they are."""
    return float(metric(np.ones((1, items)))[0])


def draw_means(sums_GK: np.ndarray, counts_GK: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, K) means over items; units are drawn.

    Args:
        sums_GK: of each unit, the sum of each metric over its items.
        counts_GK: these items; (G, 1) where all metrics are of the same.
    """
    weights, means = drawn_weights(len(counts_GK), draws, seed), list[np.ndarray]()
    while block := list(islice(weights, _AT_ONCE)):
        weight_BG = np.stack(block).astype(np.float64)
        means.append(weight_BG @ sums_GK / np.maximum(weight_BG @ counts_GK, 1))
    return np.concatenate(means)


def interval(draws: np.ndarray, units: int | None = None) -> tuple[float, float]:
    """The middle 95 % of drawn values that are numbers, as lower and upper end: for differences, whose bounds are far.

    Args:
        units: of which drawn values of few vary too little: the ends are moved from their middle by as much as
            Student's t is wider than the normal distribution.
    """
    low, middle, high = np.nanquantile(draws, [0.025, 0.5, 0.975])
    wider = 1.0 if units is None else student(units - 1) / Z * math.sqrt(units / max(1, units - 1))
    return round(float(middle + wider * (low - middle)), 2), round(float(middle + wider * (high - middle)), 2)


def gain(value: float, draws: np.ndarray, units: int) -> dict[str, float]:
    """A paired difference of shares of right answers in points, its `mean`, and the ends of its 95 % interval.

    As if one unit more had changed, half to the right and half to the wrong: what no unit, or hardly one, shows may
    yet happen on others (Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions").

    Args:
        value: the difference on all units as they are.
        draws: (draws,) its drawn values.
    """
    variance = float(np.nanvar(draws)) * units / max(1, units - 1) + (100 / (units + 2)) ** 2
    reach = student(units - 1) * math.sqrt(variance)
    low, high = max(-100.0, value - reach), min(100.0, value + reach)
    return {"mean": round(value, 2), "low": round(low, 2), "high": round(high, 2)}


def bounded_interval(
    value: float,
    draws: np.ndarray,
    units: int,
    bounds: tuple[float, float] = PERCENT,
    digits: int = 2,
    counted: bool = False,
) -> tuple[float, float]:
    """95 % interval of a metric that lies between bounds, such as a share; its ends lie between them, too.

    Wilson's score interval with as many independent trials as would vary as much as the drawn values do, and Student's
    t: a design-effect interval (Korn and Graubard 1998, "Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data"). Unlike the middle of the drawn values it holds for few
    units, and where all or nearly all are right.

    Args:
        value: of all units as they are.
        draws: (draws,) its drawn values.
        counted: it is a share of right answers, several of which belong to a unit: SINGLE of the units are taken for
            one trial each, since a few wrong ones do not show how much they hang together.
    """
    variance = float(np.nanvar(draws)) * units / max(1, units - 1)
    if counted:
        share = (value - bounds[0]) / (bounds[1] - bounds[0])
        weight, single = min(1.0, SINGLE / units), share * (1 - share) / units * (bounds[1] - bounds[0]) ** 2
        variance = (1 - weight) * variance + weight * single
    return score_interval(value, variance, units, bounds, digits)


def score_interval(
    value: float, variance: float, units: float, bounds: tuple[float, float] = PERCENT, digits: int = 2
) -> tuple[float, float]:
    """Wilson score interval of a metric whose sampling variance is known.

    Args:
        variance: without any, as where all are right, as many trials are counted as there are units.
    """
    low, high = bounds
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    spread = variance / (high - low) ** 2
    trials = share * (1 - share) / spread if spread > 1e-12 and 0 < share < 1 else units
    t = student(units - 1)
    middle = (share + t**2 / (2 * trials)) / (1 + t**2 / trials)
    reach = t / (1 + t**2 / trials) * math.sqrt(share * (1 - share) / trials + t**2 / (4 * trials**2))
    ends = (max(0.0, middle - reach), min(1.0, middle + reach))
    return round(low + (high - low) * ends[0], digits), round(low + (high - low) * ends[1], digits)


def student(freedom: float) -> float:
    """97.5 % quantile of Student's t, to a thousandth from four degrees of freedom on (Cornish-Fisher)."""
    freedom = max(1.0, freedom)
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
