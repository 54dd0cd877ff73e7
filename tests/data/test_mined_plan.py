"""Batches of mined groups: full, without repeats, each sample a seed once an epoch, and the same from any step on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.data.batch_plan import EachSample, MinedPlan


def mined(count: int, batch: int, group: int, seed: int = 0, neighbors: int = 3) -> MinedPlan:
    plan = MinedPlan(count, batch, group, seed)
    others = [[(index + offset) % count for offset in range(1, neighbors + 1)] for index in range(count)]
    plan.neighbors_NK = np.array(others)
    return plan


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(2, 9), more=st.integers(0, 20), group=st.integers(2, 12), seed=st.integers(0, 9),
    start=st.integers(0, 9),
)  # fmt: skip
def test_batches_are_full_without_repeats_and_the_same_from_any_step(
    batch: int, more: int, group: int, seed: int, start: int
) -> None:
    count = batch + more
    plan = mined(count, batch, group, seed, neighbors=min(3, count - 1))
    steps = 2 * plan.steps_per_epoch + 1
    batches = list(plan.batches(0, start + steps))
    assert list(plan.batches(start, start + steps)) == batches[start:]
    for step, keys in enumerate(batches):
        assert {time for time, _ in keys} == {step}
        assert len({index for _, index in keys}) == batch


def test_each_sample_is_a_seed_once_an_epoch_and_its_neighbours_stand_with_it() -> None:
    plan = mined(40, 8, 4, neighbors=3)
    seeds = []
    for keys in plan.batches(0, plan.steps_per_epoch):
        indices = [index for _, index in keys]
        for at in (0, 4):
            seeds.append(indices[at])
            near = {(indices[at] + offset) % 40 for offset in range(1, 4)}
            joined = set(indices[at + 1 : at + 4])
            assert joined <= near or at == 4  # of the second group some may stand in the first
    assert len(seeds) == 40
    assert len(set(seeds)) >= 36  # a seed that a group before it holds already is no seed again


def test_processes_read_parts_of_one_batch() -> None:
    whole = mined(20, 6, 3)
    parts = []
    for rows in (slice(0, 3), slice(3, 6)):
        plan = MinedPlan(20, 6, 3, 0, rows)
        plan.neighbors_NK = whole.neighbors_NK
        parts.append(list(plan.batches(0, 5)))
    assert [first + second for first, second in zip(*parts, strict=True)] == list(whole.batches(0, 5))


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples do not fill a batch of 4"):
        MinedPlan(3, 4, 2, 0)


def test_each_sample_comes_so_many_times_at_times_of_no_training() -> None:
    plan = EachSample(5, batch=3, times=2)
    keys = [key for batch in plan.batches(0, plan.steps) for key in batch]
    assert [index for _, index in keys] == [0, 1, 2, 3, 4] * 2
    assert [time for time, _ in keys] == [-1] * 5 + [-2] * 5
