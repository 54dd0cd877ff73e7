"""Rates and their bounds: values computed by hand, and what holds for all counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.corpus.clicks.position_bias import examination_by_position, pooled
from ccmb.corpus.clicks.rates import beta_bound, rate, wilson_bound

counts = st.integers(0, 1000).flatmap(lambda views: st.tuples(st.integers(0, views), st.just(views)))


def for_one_pair(function: object, clicks: float, examinations: float, *more: object) -> float:
    return float(function(np.array([clicks], float), np.array([examinations], float), *more)[0])  # type: ignore[operator]


def test_rates_are_clicks_per_examination_and_at_most_one() -> None:
    assert for_one_pair(rate, 3, 4) == 0.75
    assert for_one_pair(rate, 5, 4) == 1
    assert for_one_pair(rate, 0, 0) == 0


def test_wilson_bound_by_hand() -> None:
    # 8 of 10 at 1.96: centre (0.8 + 0.19208) / 1.38416, half width 1.96 sqrt(0.016 + 0.009604) / 1.38416.
    assert for_one_pair(wilson_bound, 8, 10, 1.96) == pytest.approx(0.49016, abs=1e-5)
    assert for_one_pair(wilson_bound, 1, 1, 1.645) == pytest.approx(1 / (1 + 1.645**2), abs=1e-9)
    assert for_one_pair(wilson_bound, 0, 50, 1.645) == pytest.approx(0, abs=1e-12)


def test_beta_bound_by_hand() -> None:
    # Beta(1 + 3, 9 + 7): mean 0.2, variance 0.2 * 0.8 / 21.
    assert for_one_pair(beta_bound, 3, 10, 1.0, (1.0, 9.0)) == pytest.approx(0.2 - (0.16 / 21) ** 0.5)
    assert for_one_pair(beta_bound, 0, 0, 0.0, (1.0, 9.0)) == pytest.approx(0.1)


@given(counts, st.floats(0, 4))
def test_bounds_are_in_zero_to_one_and_not_above_the_rate(pair: tuple[int, int], z: float) -> None:
    assert 0 <= for_one_pair(wilson_bound, *pair, z) <= for_one_pair(rate, *pair) + 1e-9
    assert 0 <= for_one_pair(beta_bound, *pair, z, (1.0, 9.0)) <= 1


@given(counts.filter(lambda pair: pair[0] < pair[1]), st.floats(0.5, 3))
def test_bounds_grow_with_clicks_and_with_evidence(pair: tuple[int, int], z: float) -> None:
    clicks, views = pair
    for bound, more in ((wilson_bound, ()), (beta_bound, ((1.0, 9.0),))):
        assert for_one_pair(bound, clicks + 1, views, z, *more) >= for_one_pair(bound, clicks, views, z, *more) - 1e-12
    assert for_one_pair(wilson_bound, 2 * clicks, 2 * views, z) >= for_one_pair(wilson_bound, clicks, views, z) - 1e-12


def log(theta: list[float], attraction: list[float], shown: list[list[int]]) -> tuple[np.ndarray, ...]:
    """Expected counts of pairs that were shown so often at each position."""
    rows = [
        (pair, position + 1, views, views * theta[position] * attraction[pair])
        for pair, views_of_pair in enumerate(shown)
        for position, views in enumerate(views_of_pair)
        if views
    ]
    pairs, positions, views, clicks = (np.array(column) for column in zip(*rows, strict=True))
    return pairs, positions, views, clicks


THETA = [1.0, 0.6, 0.35, 0.2]


def test_examination_is_recovered_though_the_best_pairs_stand_first() -> None:
    # The better a pair, the higher it stands: clicks by position alone would tell another story.
    shown = [[900, 90, 9, 0], [90, 900, 90, 9], [9, 90, 900, 90], [0, 9, 90, 900]]
    pairs, positions, views, clicks = log(THETA, [0.9, 0.5, 0.2, 0.05], shown)
    examination = examination_by_position(pairs, positions, views, clicks, 1, 0.01)
    np.testing.assert_allclose(examination, THETA, rtol=1e-3)
    raw = [clicks[positions == k].sum() / views[positions == k].sum() for k in (1, 2, 3, 4)]
    assert raw[3] / raw[0] < 0.5 * THETA[3]


def test_examination_does_not_depend_on_names_or_order() -> None:
    pairs, positions, views, clicks = log(THETA, [0.5, 0.1], [[10, 20, 30, 40], [40, 30, 20, 10]])
    clicks = np.round(clicks).astype(np.int64)
    examination = examination_by_position(pairs, positions, views, clicks, 1, 0.01)
    order = np.random.default_rng(0).permutation(len(pairs))
    other = examination_by_position(
        -7 * pairs[order] - 2**62, positions[order], views[order], clicks[order], 1, 0.01
    )  # fmt: skip
    np.testing.assert_allclose(examination, other, rtol=1e-9)


def test_positions_that_nothing_is_known_of_are_like_the_one_before() -> None:
    # Positions 3 and 4 share pairs with each other alone.
    pairs, positions, views, clicks = log(THETA, [0.5, 0.3], [[50, 50, 0, 0], [0, 0, 50, 50]])
    examination = examination_by_position(pairs, positions, views, clicks, 1, 0.01)
    np.testing.assert_allclose(examination, [1.0, 0.6, 0.6, 0.6], rtol=1e-3)


def test_small_examinations_are_raised_and_no_rows_give_one() -> None:
    pairs, positions, views, clicks = log([1.0, 0.001], [0.5], [[10_000, 10_000]])
    assert examination_by_position(pairs, positions, views, clicks, 1, 0.05)[1] == 0.05
    none = np.zeros(0, np.int64)
    assert examination_by_position(none, none, none, none, 1, 0.05).tolist() == [1.0]


def test_positions_are_pooled_until_they_have_enough_clicks() -> None:
    assert pooled(np.array([5, 5, 2, 2, 2, 9, 1]), 5).tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert pooled(np.array([1, 1]), 5).tolist() == [0, 0]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 20))
def test_pools_are_runs_with_enough_clicks(clicks: list[int], minimum: int) -> None:
    pools = pooled(np.array(clicks), minimum)
    assert pools[0] == 0
    assert set(np.diff(pools)) <= {0, 1}
    assert sum(clicks) < minimum or np.bincount(pools, clicks).min() >= minimum
