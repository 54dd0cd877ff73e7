"""Where texts of like length are cut into parts that are computed together."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ccmb.r2d2.onnx.bucketing import cut


def cost(lengths: list[int], ends: tuple[int, ...], call_tokens: int) -> int:
    starts = (0, *ends[:-1])
    return sum((end - start) * lengths[end - 1] + call_tokens for start, end in zip(starts, ends, strict=True))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7).map(sorted), st.integers(1, 4), st.integers(0, 12))
def test_the_cut_is_the_cheapest_of_all(lengths: list[int], maximum: int, call_tokens: int) -> None:
    count = len(lengths)
    all_cuts = [(*inner, count) for parts in range(maximum) for inner in itertools.combinations(range(1, count), parts)]
    ends = cut(lengths, maximum, call_tokens)
    assert len(ends) <= maximum
    assert ends[-1] == count
    assert cost(lengths, tuple(ends), call_tokens) == min(cost(lengths, ends, call_tokens) for ends in all_cuts)


def test_a_part_that_saves_less_than_its_calls_cost_is_not_made() -> None:
    assert cut([10, 10, 20], 4, call_tokens=21) == [3]
    assert cut([10, 10, 20], 4, call_tokens=19) == [2, 3]
