"""Batches from shards: the same order whoever reads, wherever it begins, and whatever is damaged."""

import io
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccmb.data.images.transforms import Augmentation
from ccmb.data.shards.locate import Shard
from ccmb.data.shards.order import StreamOrder
from ccmb.data.shards.remote import open_file
from ccmb.data.shards.stream import ShardStream, image_id, stream_batches
from tests.helpers.shard_folders import SIZE, joined, open_folder, png, texts_of, write_shards, write_tar

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """COUNT samples in shards of 7: six, the last with five."""
    return write_shards(tmp_path_factory.mktemp("stream"), COUNT, 7)


ORDERS = {"streams": st.integers(1, 4), "share": st.integers(1, 3), "buffer": st.integers(1, 20)}
SIZES = st.lists(st.integers(0, 7), max_size=3)  # of the first shards, before two of which one at least is whole
SEEDS = st.integers(0, 2**32)


@given(**ORDERS, sizes=SIZES, seed=SEEDS, start=st.integers(0, 25), more=st.integers(0, 25))
def test_a_resumed_order_is_the_rest_of_the_order_never_stopped(
    folder, streams, share, buffer, sizes, seed, start, more
):
    def texts(start, stop):
        stream = open_folder(folder, streams * share, streams, buffer, seed, sizes=[*sizes, 7, 5])
        return texts_of(stream, start, stop)

    assert texts(start, start + more) == texts(0, start + more)[start:]


@given(**ORDERS, sizes=SIZES, seed=SEEDS)
def test_an_epoch_reads_every_sample_once(folder, streams, share, buffer, sizes, seed):
    sizes = [*sizes, 7, 5]
    stream = open_folder(folder, streams * share, streams, buffer, seed, sizes=sizes)
    steps = stream.order.steps_per_epoch
    all_items = {f"样本{shard * 7 + position}" for shard, size in enumerate(sizes) for position in range(size)}
    for epoch in range(2):
        seen = Counter(joined(texts_of(stream, epoch * steps, (epoch + 1) * steps)))
        assert set(seen.values()) == {1}
        assert set(seen) <= all_items
        assert len(seen) == len(all_items) // (streams * share) * streams * share


@settings(max_examples=6)
@given(share=st.integers(1, 3), buffer=st.integers(1, 20), seed=SEEDS, start=st.integers(0, 12))
def test_workers_change_neither_order_nor_pixels(folder, share, buffer, seed, start):
    def batches(start, workers):
        stream = open_folder(folder, 3 * share, 3, buffer, seed)
        return list(stream_batches(stream, SIZE, start, 14, list, joined, workers))

    alone = batches(0, 0)
    for workers in (1, 2):
        helped = batches(start, workers)
        assert len(helped) == 14 - start
        for one, other in zip(alone[start:], helped, strict=True):
            for (pixels, *reported), (same_pixels, *same_told) in zip(one, other, strict=True):
                np.testing.assert_array_equal(pixels, same_pixels)
                assert reported == same_told


@given(seed=SEEDS, start=st.integers(0, 12), world=st.sampled_from([2, 4]))
def test_the_ranks_batches_make_the_batch_of_one_rank(folder, seed, start, world):
    whole = texts_of(open_folder(folder, 8, 4, seed=seed), start, 12)
    ranks = [texts_of(open_folder(folder, 8, 4, seed=seed, rank=rank, world=world), start, 12) for rank in range(world)]
    assert whole == [joined(parts) for parts in zip(*ranks, strict=True)]


def test_two_ranks_with_a_worker_each_make_the_batch_of_one_process(folder):
    ranks = [texts_of(open_folder(folder, 8, 2, rank=rank, world=2), 3, 9, workers=1) for rank in range(2)]
    assert texts_of(open_folder(folder, 8, 2), 3, 9) == [joined(parts) for parts in zip(*ranks, strict=True)]


@given(
    damage=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    cut=st.none() | st.tuples(st.integers(0, 5), st.floats(0, 1)),
    seed=st.integers(0, 99),
    start=st.integers(0, 12),
)
def test_damaged_bytes_never_crash_and_never_move_a_sample(tmp_path_factory, folder, damage, cut, seed, start):
    shards = {index: bytearray(path.read_bytes()) for index, path in enumerate(sorted(folder.glob("*.tar")))}
    for index, where, flip in damage:
        shards[index][int(where * len(shards[index]))] ^= flip
    if cut:
        del shards[cut[0]][int(cut[1] * len(shards[cut[0]])) :]
    damaged = tmp_path_factory.mktemp("damaged")
    for index, data in shards.items():
        (damaged / f"shard-{index:06d}.tar").write_bytes(data)
    (damaged / "shards.jsonl").write_bytes((folder / "shards.jsonl").read_bytes())

    def keys(folder, start):
        stream = open_folder(folder, 6, 2, 9, seed)
        result = (item for index in range(2) for item in stream.located_samples(index, start, 14))
        return [(epoch, position, None if isinstance(raw, str) else raw.key) for epoch, position, raw in result]

    for start_at in (0, start):
        pairs = list(zip(keys(damaged, start_at), keys(folder, start_at), strict=True))
        assert all(one[:2] == other[:2] and one[2] in (None, other[2]) for one, other in pairs)
    assert (
        texts_of(open_folder(damaged, 6, 2, 9, seed), start, 14)
        == (texts_of(open_folder(damaged, 6, 2, 9, seed), 0, 14)[start:])
    )


def test_a_missing_shard_is_lost_and_counted_and_the_rest_goes_on(tmp_path):
    folder = write_shards(tmp_path, 40, 10)
    whole = texts_of(open_folder(folder, 4, 2), 0, 10)
    (folder / "shard-000001.tar").unlink()
    stream = open_folder(folder, 4, 2)
    assert texts_of(stream, 0, 10) == [
        [None if text in {f"样本{index}" for index in range(10, 20)} else text for text in batch] for batch in whole
    ]
    lost = {item for batch in stream_batches(stream, SIZE, 0, 10, list, joined) for item in batch if type(item) is str}
    assert lost == {f"{folder}/shard-000001.tar: no such file after 0 of 10 samples; the others are lost"}


def test_a_shard_that_is_cut_short_loses_its_end_and_says_how_much(tmp_path):
    folder = write_shards(tmp_path, 20, 10)
    path = folder / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[: 512 * 4 * 6 + 100])
    items = joined(stream_batches(open_folder(folder, 20, 1, 1), SIZE, 0, 1, list, joined))
    lost = [item for item in items if isinstance(item, str)]
    assert len(lost) == 4
    assert len(set(lost)) == 1
    assert lost[0].endswith(", after 6 of 10 samples; the others are lost")


def stream_of(shard, weights=None, **augmentation):
    order = StreamOrder((shard.samples,), 1, 1, 1, 0)
    return ShardStream([shard], order, ["a", "b"], weights, Augmentation(**augmentation), 0)


def shard_of(path, *lines):
    files = {}
    for index, line in enumerate(lines):
        files |= {f"{index}.png": half_white(), f"{index}.json": line}
    return Shard(str(write_tar(path, files)), len(lines))


def half_white():
    image = Image.new("RGB", (SIZE, SIZE))
    image.paste((255, 255, 255), (SIZE // 2, 0, SIZE, SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_fields_are_drawn_by_their_weights(tmp_path):
    shard = shard_of(tmp_path / "a.tar", '{"a": ["一", "二", "三"], "b": "四"}'.encode(), '{"b": "五"}'.encode())
    drawn = Counter(joined(texts_of(stream_of(shard, [1, 3]), 0, 2000)))
    assert drawn["五"] == 1000  # it has no other field
    assert 700 < drawn["四"] < 800
    even = Counter(joined(texts_of(stream_of(shard), 0, 2000)))
    assert 200 < even["四"] < 300
    assert texts_of(stream_of(shard, [1, 0]), 0, 200).count(["五"]) == 100


def test_a_batch_draws_from_the_field_of_its_step(tmp_path):
    shard = shard_of(tmp_path / "a.tar", '{"a": "一", "b": "二"}'.encode())
    batches = stream_batches(stream_of(shard), SIZE, 0, 6, list, joined, field_of=lambda step: step % 2)
    assert [batch[0][1] for batch in batches] == ["一", "二"] * 3


def test_an_image_is_never_mirrored_when_one_of_its_texts_says_left_or_right(tmp_path):
    shard = shard_of(tmp_path / "a.tar", '{"a": "船", "b": "船在左边"}'.encode(), '{"a": "船"}'.encode())
    stream = stream_of(shard, flip=True)
    white = {"sided": set(), "free": set()}
    for item in joined(stream_batches(stream, SIZE, 0, 80, list, joined)):
        name = "free" if item[2] == image_id(f"{tmp_path}/a.tar/1.png") else "sided"
        white[name].add(bool(item[0][0, 0, 0]))
    assert white == {"sided": {False}, "free": {False, True}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "0.json: not valid JSON"),
        (b"[" * 10**5, "0.json: not valid JSON"),
        (b"\xff\xff", "0.json:1: not UTF-8 text"),
        (b"[]", "0.json: expected a JSON object"),
        (b'{"c": "x"}', "no text field 'a, b'; the line has: c"),
        (b'{"a": " "}', "not a text or empty"),
        (b'{"a": "\\ud83d"}', "half a surrogate pair"),
        (b'{"a": "x", "image": 7}', 'no "image"'),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "more than the 1,048,576 allowed"),
    ],
)
def test_a_sample_that_cannot_be_used_becomes_one_line_that_names_it(tmp_path, line, reason):
    shard = shard_of(tmp_path / "a.tar", line)
    [[item]] = stream_batches(stream_of(shard), SIZE, 0, 1, list, joined)
    assert item.startswith(f"{tmp_path}/a.tar/0")
    assert reason in item
    assert "\n" not in item


def test_samples_without_an_image_or_a_text_keep_their_place(tmp_path):
    text = b'{"a": "x"}'
    files = {"0.json": text, "1.png": png(), "2.png": png(), "2.json": text, "readme": b"", "3.cls": b"1"}
    files |= {"4.png": b"no picture", "4.json": text}
    shard = Shard(str(write_tar(tmp_path / "a.tar", files)), 5)
    items = [item for [item] in stream_batches(stream_of(shard), SIZE, 0, 5, list, joined)]
    lost = {item.removeprefix(f"{tmp_path}/a.tar/").split(" (")[0] for item in items if isinstance(item, str)}
    needs = "1: no text; it needs a file 1.json or 1.txt"
    assert lost == {"0: no image", needs, "3: no image", "4.png: not an image, or damaged"}


def test_equal_names_are_one_image():
    names = [f"{random.Random(index).random()}.jpg" for index in range(1000)]
    assert len(set(map(image_id, names))) == 1000
    assert all(0 <= image_id(name) < 2**63 for name in names)
    assert image_id("猫.jpg") == image_id("猫.jpg")


def test_the_first_samples_are_those_of_the_first_shards(folder):
    stream = open_folder(folder, 4, 2)
    assert [sample.texts for sample in stream.first_samples(9)] == [(f"样本{index}",) for index in range(9)]
    assert len(list(stream.first_samples(10**6))) == COUNT


def test_a_resumed_stream_opens_only_what_is_still_to_come(tmp_path, monkeypatch):
    folder = write_shards(tmp_path, 40, 4)
    opened = []
    monkeypatch.setattr("ccmb.data.shards.read.open_file", lambda url: opened.append(url) or open_file(url))
    texts_of(open_folder(folder, 4, 1, buffer=1), 8, 10)
    assert 2 <= len(opened) <= 3
