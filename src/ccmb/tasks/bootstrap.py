"""The bootstrap over pictures: how much a figure would vary on other pictures of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np


def drawn_weights(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """(count,) how often each of so many pictures is drawn with replacement, for each of the draws.

    Equal seeds draw the same pictures: differences between models on the same ones are then paired.
    """
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, count, count), minlength=count)


def bootstrap(
    figures: Sequence[Callable[[np.ndarray], float]], picture_N: np.ndarray, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """(draws, figures) of figures of N pairs, when it is pictures that are drawn, each with all its pairs.

    Args:
        figures: each takes the weights (N,) of the pairs; not a number where it cannot be told of them.
        picture_N: the number of each pair's picture, from 0.
    """
    count = int(picture_N.max()) + 1
    weights = (weight_G[picture_N] for weight_G in drawn_weights(count, draws, seed))
    return np.array([[figure(weight_N) for figure in figures] for weight_N in weights])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values, as lower and upper end."""
    return rounded_interval(values, 2)


def rounded_interval(values: np.ndarray, digits: int) -> tuple[float, float]:
    """The same with so many digits, of the values that are numbers."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return round(float(low), digits), round(float(high), digits)
