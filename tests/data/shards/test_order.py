"""The order of a stream: every sample once an epoch, the same from any step on, whoever reads it."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import UsageError
from ccmb.data.shards.order import Draws, Positions, StreamOrder, check_streams, share_of

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(sum)


@st.composite
def orders(draw, per_epoch=st.none()):
    """Orders with at least one step an epoch."""
    streams = draw(st.integers(1, 4))
    batch = streams * draw(st.integers(1, 4))
    sizes = tuple(draw(SIZES.filter(lambda sizes: sum(sizes) >= batch)))
    order = StreamOrder(sizes, batch, streams, draw(st.integers(1, 20)), draw(st.integers(0, 2**32)), draw(per_epoch))
    return order


def stream_of(order, epoch, stream):
    positions = Positions(order.runs(epoch, stream))
    return [positions.locate(position) for position in order.draws(epoch, stream)]


@given(order=orders(), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_sample_once_but_for_those_that_fill_no_batch(order, epoch):
    seen = Counter(position for stream in range(order.streams) for position in stream_of(order, epoch, stream))
    all_items = {(shard, sample) for shard, size in enumerate(order.sizes) for sample in range(size)}
    assert set(seen) <= all_items
    assert set(seen.values()) == {1}
    assert len(seen) == len(all_items) // order.batch * order.batch


@given(order=orders(per_epoch=st.integers(16, 40)))
def test_an_epoch_may_be_shorter(order):
    total = min(sum(order.sizes), order.per_epoch)
    assert order.steps_per_epoch == total // order.batch
    assert all(
        len(stream_of(order, 0, stream)) == order.steps_per_epoch * order.share for stream in range(order.streams)
    )


@given(count=st.integers(0, 60), size=st.integers(1, 20), seed=st.integers(0, 99), skipped=st.integers(0, 60))
def test_draws_can_be_skipped_and_say_what_is_still_to_come(count, size, seed, skipped):
    whole = list(Draws(count, size, random.Random(seed)))
    assert sorted(whole) == list(range(count))
    draws = Draws(count, size, random.Random(seed))
    draws.skip(min(skipped, count))
    to_come = list(draws.to_come())
    assert to_come == sorted(whole[min(skipped, count) :])
    assert list(draws) == whole[min(skipped, count) :]


@given(count=st.integers(0, 60), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_nothing_is_drawn_before_the_buffer_can_hold_it(count, size, seed):
    drawn = list(Draws(count, size, random.Random(seed)))
    assert all(index < position + size for position, index in enumerate(drawn))
    if size == 1:
        assert drawn == list(range(count))


def test_seeds_epochs_and_streams_have_orders_of_their_own():
    orders = [StreamOrder((20, 20, 20), 6, 2, 10, seed) for seed in range(3)]
    result = {tuple(stream_of(order, epoch, stream)) for order in orders for epoch in range(3) for stream in range(2)}
    assert len(result) == 18


def test_every_sample_is_seen_equally_often_though_ends_of_epochs_are_left_out():
    order = StreamOrder((5, 7, 3), 8, 2, 4, 0)
    seen = Counter(
        position for epoch in range(2000) for stream in range(2) for position in stream_of(order, epoch, stream)
    )
    assert len(seen) == 15
    assert min(seen.values()) > 0.85 * max(seen.values())


@given(streams=st.integers(1, 12), parts=st.integers(1, 12))
def test_streams_are_shared_out_in_order_and_evenly(streams, parts):
    shares = [share_of(range(streams), part, parts) for part in range(parts)]
    assert [stream for share in shares for stream in share] == list(range(streams))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("shards", "batch", "streams", "world", "workers", "message"),
    [
        (6, 16, 8, 2, 4, "6 shards < 2 ranks x 4 workers = 8 processes that read; lower data.num_workers"),
        (
            9,
            16,
            4,
            2,
            4,
            "data.streams=4 < 2 ranks x 4 workers = 8 processes that read; set data.streams to a multiple of",
        ),
        (7, 16, 8, 1, 1, "7 shards < data.streams=8; set data.streams=4, or write the data into more shards"),
        (9, 16, 4, 3, 1, "data.streams=4 / 3 ranks is not whole; set data.streams to a multiple of 3"),
        (9, 18, 4, 1, 0, "training.batch_size=18 / data.streams=4 is not whole"),
        (9, 64, 4, 1, 0, "45 samples an epoch do not fill training.batch_size=64"),
    ],
)
def test_what_does_not_divide_is_refused_with_the_arithmetic(shards, batch, streams, world, workers, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check_streams(StreamOrder((5,) * shards, batch, streams, 4, 0), world, workers)


def test_what_divides_is_taken():
    check_streams(StreamOrder((5,) * 8, 16, 8, 4, 0), world=2, workers=4)
    check_streams(StreamOrder((5,) * 8, 16, 8, 4, 0), world=1, workers=3)
