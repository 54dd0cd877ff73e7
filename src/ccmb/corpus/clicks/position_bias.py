"""How likely people look at a result, by its position, estimated from pairs that were shown at several positions.

The position-based model (Craswell et al., WSDM 2008): n_pk visitors were shown pair p at position k, and
n_pk * theta_k * gamma_p of them click. theta is the examination, gamma the attraction. Both are fitted together by
alternating gamma_p = C_p / sum_k n_pk theta_k and theta_k = C_k / sum_p n_pk gamma_p, where C are sums of clicks. That
is the maximum-likelihood fit of Poisson clicks.

The fit only compares a pair with itself at other positions. So it is not biased by better results at better positions,
and it needs no experiment. Wang et al. ("Position bias estimation for unbiased learning to rank in personal search",
WSDM 2018) fit the same model by EM to queries with features. Here a pair is its own feature, and the fit reads nothing
but the counts of a group-by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
STEPS, CLOSE = 1000, 1e-6


def examination_by_position(
    pairs: Integers,
    positions: Integers,
    impressions: Integers,
    clicks: Integers,
    min_clicks: int,
    min_examination: float,
) -> Floats:
    """Probability that people look at a result at position 1, 2, .., relative to that of position 1.

    Args:
        pairs: a number for each row, the same for equal pairs; a row is a pair at a position.
        positions: the position of each row, from 1.
        impressions: how many visitors were shown the pair at the position.
        clicks: how many of these visitors clicked.
        min_clicks: neighbouring positions are pooled until they have so many clicks.
        min_examination: smaller values are raised to this.

    Returns:
        As many values as the deepest position; all 1 if no pair was shown at two positions. If a position shares no
        pair with the others, nothing is known of it, and it gets the value of the position before it.
    """
    if not len(positions):
        return np.ones(1)
    pool_of = pooled(np.bincount(positions - 1, clicks).astype(np.int64), min_clicks)
    pools = pool_of[positions - 1]
    _, pairs = np.unique(pairs, return_inverse=True)
    reached = _comparable(pairs, pools)
    fitted = _fit(pairs, pools, impressions.astype(np.float64), clicks.astype(np.float64))
    value, examination = 1.0, np.ones(len(fitted))
    for pool in range(len(fitted)):
        value = fitted[pool] if reached[pool] else value
        examination[pool] = value
    return np.asarray(np.maximum(examination / examination[0], min_examination)[pool_of])


def pooled(clicks_K: Integers, min_clicks: int) -> Integers:
    """The pool of each position, from 0. A pool is a run of neighbours with at least `min_clicks` clicks together."""
    pools, pool, held = np.zeros(len(clicks_K), np.int64), 0, 0
    for position, clicks in enumerate(clicks_K):
        if held >= min_clicks:
            pool, held = pool + 1, 0
        pools[position] = pool
        held += int(clicks)
    if held < min_clicks and pool:
        pools[pools == pool] = pool - 1
    return pools


def _comparable(pairs: Integers, pools: Integers) -> NDArray[np.bool_]:
    """Whether a chain of pairs leads from each pool to the first."""
    reached = np.zeros(pools.max() + 1, bool)
    reached[0] = True
    while True:
        linked = np.zeros(pairs.max() + 1, bool)
        linked[pairs[reached[pools]]] = True
        wider = reached.copy()
        wider[pools[linked[pairs]]] = True
        if (wider == reached).all():
            return reached
        reached = wider


def _fit(pairs: Integers, pools: Integers, impressions: Floats, clicks: Floats) -> Floats:
    theta = np.ones(pools.max() + 1)
    clicks_of_pair, clicks_of_pool = np.bincount(pairs, clicks), np.bincount(pools, clicks)
    for _ in range(STEPS):
        gamma = clicks_of_pair / np.maximum(np.bincount(pairs, impressions * theta[pools]), 1e-12)
        expected = np.bincount(pools, impressions * gamma[pairs])
        new = np.where(expected > 0, clicks_of_pool / np.maximum(expected, 1e-12), theta)
        new = np.maximum(new, 1e-6) / max(new[0], 1e-6)
        if np.abs(new - theta).max() < CLOSE:
            return np.asarray(new)
        theta = new
    return theta
