"""The order of batches: each sample once an epoch, groups together, and the same from any step on."""

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.data.batch_plan import BatchPlan
from ccmb.data.images.source import ImageSource
from ccmb.data.images.transforms import Augmentation, speaks_of_sides, square
from ccmb.data.loader import FieldPlan, TrainingSet, choose_text, training_batches
from ccmb.data.sample import Sample
from ccmb.data.states.images import StoredImages


def grouped(sizes: list[int]) -> list[Sample]:
    """One group of each size, their members spread over the list."""
    members = [(group, position) for group, size in enumerate(sizes) for position in range(size)]
    members.sort(key=lambda member: member[1])
    names = [f"g{group}" if size > 1 else None for group, size in enumerate(sizes)]
    return [Sample(f"{group}-{position}", ("猫",), group=names[group]) for group, position in members]


SIZES = st.lists(st.sampled_from([1, 1, 2, 3, 7]), min_size=2, max_size=30)


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, batch=st.integers(2, 8), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_holds_every_sample_exactly_once(sizes, batch, seed, epoch):
    samples = grouped(sizes)
    plan = BatchPlan(samples, min(batch, len(samples)), seed)
    assert sorted(plan.epoch_order(epoch)) == list(range(len(samples)))


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, batch=st.integers(2, 8), seed=st.integers(0, 2**40))
def test_batches_are_full_and_of_one_epoch(sizes, batch, seed):
    samples = grouped(sizes)
    plan = BatchPlan(samples, batch := min(batch, len(samples)), seed)
    for step, keys in enumerate(plan.batches(0, 3 * plan.steps_per_epoch)):
        assert len(set(keys)) == batch
        assert {epoch for epoch, _ in keys} == {step // plan.steps_per_epoch}


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, batch=st.integers(2, 9), seed=st.integers(0, 2**40))
def test_a_group_is_cut_only_where_no_group_that_waits_would_have_fitted(sizes, batch, seed):
    plan = BatchPlan(grouped(sizes), batch := min(batch, sum(sizes)), seed)
    order = plan.epoch_order(0).tolist()
    places = [[order.index(sample) for sample in group] for group in plan.groups]
    for group in places:
        assert max(group) - min(group) == len(group) - 1
        border = (min(group) // batch + 1) * batch
        if max(group) >= border:
            room = border - min(group)
            assert all(len(other) > room for other in places if min(other) > min(group))


def cut_groups(plan: BatchPlan, order: np.ndarray) -> int:
    batch_of = {int(sample): position // plan.batch for position, sample in enumerate(order)}
    result = ({batch_of[sample] for sample in group if sample in batch_of} for group in plan.groups)
    return sum(len(batches) > 1 for batches in result)


@pytest.mark.parametrize("sizes", [[2] * 24, [2] * 10 + [1] * 28, [4] * 6 + [2] * 6 + [1] * 12])
def test_no_group_of_an_epoch_is_cut_where_sizes_divide_the_batch(sizes):
    plan = BatchPlan(grouped(sizes), 8, seed=1)
    for epoch in range(20):
        assert cut_groups(plan, plan.epoch_order(epoch)) == 0


def test_where_nothing_fits_a_group_is_cut_between_neighbouring_batches():
    plan = BatchPlan(grouped([2] * 30), 5, seed=0)
    order = list(plan.epoch_order(0))
    for group in plan.groups:
        assert abs(order.index(group[0]) - order.index(group[1])) == 1
    assert cut_groups(plan, np.array(order)) == 6


def test_a_group_larger_than_a_batch_fills_whole_batches():
    plan = BatchPlan(grouped([8] + [1] * 16), 4, seed=0)
    members = {index for index, sample in enumerate(grouped([8] + [1] * 16)) if sample.group == "g0"}
    batches = [{index for _, index in keys} for keys in plan.batches(0, plan.steps_per_epoch)]
    assert sorted(len(batch & members) for batch in batches) == [0, 0, 0, 0, 4, 4]


def test_every_sample_is_seen_equally_often_though_ends_of_epochs_are_left_out():
    plan = BatchPlan(grouped([2] * 3 + [3] + [1] * 4), 5, seed=0)
    seen = Counter(index for keys in plan.batches(0, 2 * 1500) for _, index in keys)
    assert min(seen.values()) > 0.8 * max(seen.values())


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, batch=st.integers(2, 6), seed=st.integers(0, 99), start=st.integers(0, 20), more=st.integers(0, 20))
def test_a_resumed_order_is_the_rest_of_the_order_never_stopped(sizes, batch, seed, start, more):
    samples = grouped(sizes)
    batch = min(batch, len(samples))
    for group_from in (0, start + more // 2):
        never_stopped = list(BatchPlan(samples, batch, seed, group_from).batches(0, start + more))
        assert list(BatchPlan(samples, batch, seed, group_from).batches(start, start + more)) == never_stopped[start:]


def test_groups_stand_together_only_from_the_step_that_is_asked_for():
    samples = grouped([2] * 100)
    keys = list(BatchPlan(samples, 8, seed=0, group_from=10).batches(0, 20))

    def pairs(batch):
        return sum(count == 2 for count in Counter(samples[index].group for _, index in batch).values())

    assert sum(pairs(batch) for batch in keys[:10]) < 10
    assert all(pairs(batch) == 4 for batch in keys[10:])


def test_seeds_and_epochs_change_the_order():
    samples = grouped([1] * 50)
    orders = [BatchPlan(samples, 5, seed).epoch_order(epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_too_few_samples_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 samples do not fill a batch of 4"):
        BatchPlan(grouped([1, 2]), 4, 0)


@pytest.fixture
def images(tmp_path):
    """Black on the left and white on the right, under any name but bad.png."""
    for n in range(12):
        image = Image.new("RGB", (8, 8))
        image.paste((255, 255, 255), (4, 0, 8, 8))
        image.save(tmp_path / f"{n}.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    return ImageSource.open(tmp_path)


def test_workers_change_nothing(images):
    samples = [Sample(f"{n}.png", ("一", "二", "三")) for n in range(12)]
    dataset = TrainingSet(samples, images, 8, Augmentation(flip=True, min_crop_scale=0.3, color_jitter=0.4), seed=3)
    plan = BatchPlan(samples, 4, seed=3)
    alone = list(training_batches(dataset, plan, 2, 9, list))
    helped = list(training_batches(dataset, plan, 2, 9, list, workers=2))
    assert len(alone) == len(helped) == 7
    for one, other in zip(alone, helped, strict=True):
        for (pixels, text, index), (same_pixels, same_text, same_index) in zip(one, other, strict=True):
            np.testing.assert_array_equal(pixels, same_pixels)
            assert (text, index) == (same_text, same_index)


def test_epochs_vary_pixels_and_texts(images):
    dataset = TrainingSet([Sample("0.png", ("一", "二", "三"))], images, 8, Augmentation(flip=True), seed=0)
    items = [dataset[epoch, 0, None] for epoch in range(40)]
    assert {text for _, text, _ in items} == {"一", "二", "三"}
    assert {int(pixels[0, 0, 0]) for pixels, _, _ in items} == {0, 255}


def test_a_batch_draws_from_the_field_of_its_step(images):
    by_field = (("长",), ("短",))
    samples = [Sample(f"{n}.png", ("长", "短"), fields=by_field) for n in range(11)]
    samples.append(Sample("0.png", ("长",), fields=(("长",), ())))
    dataset = TrainingSet(samples, images, 8, Augmentation(), seed=0)
    batches = training_batches(
        dataset, BatchPlan(samples, 12, 0), 0, 6, list, field_of=lambda step, row=0, turn=0: step % 2
    )
    for step, batch in enumerate(batches):
        for _, text, index in batch:
            assert text == ("短" if step % 2 and index != 11 else "长")


@given(st.integers(0, 9), st.integers(0, 99), st.integers(0, 10**6))
def test_fields_join_at_their_steps_and_share_the_rest_evenly(first, second, seed):
    plan = FieldPlan((second, 0, first), seed)
    drawn = [plan(step) for step in range(100 + 300)]
    assert drawn == [FieldPlan((second, 0, first), seed)(step) for step in range(400)]
    assert 2 not in drawn[:first]
    assert 0 not in drawn[:second]
    assert all(60 < drawn[100:].count(field) < 140 for field in range(3))


def test_an_unreadable_image_becomes_its_reason(images):
    dataset = TrainingSet([Sample("bad.png", ("猫",))], images, 8, Augmentation(), seed=0)
    assert "bad.png: not an image" in dataset[0, 0, None]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text("左右边的船在 ", min_size=1), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_an_image_is_never_mirrored_when_one_of_its_texts_says_left_or_right(tmp_path_factory, texts, seed):
    folder = tmp_path_factory.mktemp("pictures")
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (4, 0, 8, 8))
    image.save(folder / "a.png")
    dataset = TrainingSet([Sample("a.png", tuple(texts))], ImageSource.open(folder), 8, Augmentation(flip=True), seed)
    mirrored = {bool(dataset[epoch, 0, None][0][0, 0, 0]) for epoch in range(20)}
    assert mirrored == ({False} if any(map(speaks_of_sides, texts)) else {False, True})


def test_other_lines_and_near_duplicates_keep_an_image_from_being_mirrored(images):
    samples = [
        Sample("0.png", ("船",)),
        Sample("0.png", ("船在左边",)),
        Sample("1.png", ("船",), group="twins"),
        Sample("2.png", ("船在右边",), group="twins"),
        Sample("3.png", ("船",)),
    ]
    dataset = TrainingSet(samples, images, 8, Augmentation(flip=True), seed=0)
    mirrored = [any(dataset[epoch, index, None][0][0, 0, 0] for epoch in range(30)) for index in range(5)]
    assert mirrored == [False, False, False, False, True]


def test_views_are_fixed_variations_of_the_content(images, tmp_path):
    options = Augmentation(flip=True, min_crop_scale=0.3, color_jitter=0.4, num_views=3)
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    dataset = TrainingSet([Sample("0.png", ("船",))], images, 8, options, seed=0)
    copied = TrainingSet([Sample("copy.png", ("船",))], ImageSource.open(copies), 8, options, seed=0)
    other = TrainingSet([Sample("0.png", ("船",))], images, 8, options, seed=1)

    def seen(dataset, name):
        views = {dataset.fixed_pixels(name, view, True).tobytes() for view in range(3)}
        drawn = {dataset[epoch, 0, None][0].tobytes() for epoch in range(40)}
        assert drawn == views
        assert len(views) == 3
        return views

    assert seen(dataset, "0.png") == seen(copied, "copy.png") == seen(other, "0.png")
    assert (dataset.fixed_pixels("0.png", 0, True) == square(images.load("0.png"), 8)).all()


def test_every_other_view_is_mirrored(images):
    dataset = TrainingSet([Sample("1.png", ("船",))], images, 8, Augmentation(flip=True, num_views=4), seed=0)
    plain = square(images.load("1.png"), 8)
    for view in range(4):
        pixels = dataset.fixed_pixels("1.png", view, may_mirror=True)
        assert (pixels == (plain[:, ::-1] if view % 2 else plain)).all()


def test_views_are_not_mirrored_where_a_text_speaks_of_sides(images):
    options = Augmentation(flip=True, num_views=8)
    dataset = TrainingSet([Sample("0.png", ("船在左边",)), Sample("1.png", ("船",))], images, 8, options, seed=0)
    mirrored = [{bool(dataset[epoch, index, None][0][0, 0, 0]) for epoch in range(60)} for index in (0, 1)]
    assert mirrored == [{False}, {False, True}]


def test_keys_stand_for_the_views_that_would_be_drawn(images, tmp_path):
    samples = [Sample(f"{n}.png", ("船在左边" if n == 1 else "船",)) for n in range(3)] + [Sample("bad.png", ("船",))]
    options = Augmentation(flip=True, color_jitter=0.4, num_views=3)
    digests = {f"{n}.png": hashlib.sha256((tmp_path / f"{n}.png").read_bytes()).digest() for n in range(3)}
    names = StoredImages(digests, {"bad.png": "bad.png: damaged"}, mirrors=True)
    drawn, keyed = (TrainingSet(samples, images, 8, options, seed=0, stored=stored) for stored in (None, names))
    for index, epoch in itertools.product(range(3), range(9)):
        pixels, text, _ = drawn[epoch, index, None]
        key, same_text, same_index = keyed[epoch, index, None]
        assert (text, index) == (same_text, same_index)
        name, allowed = samples[index].image, drawn.may_mirror(samples[index])
        [view] = [view for view in range(3) if names.key(name, view, allowed) == key]
        np.testing.assert_array_equal(pixels, drawn.fixed_pixels(name, view, allowed))
    assert keyed[0, 3, None] == "bad.png: damaged"


class Killer(TrainingSet):
    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_clear_error(images):
    samples = [Sample(f"{n}.png", ("猫",)) for n in range(12)]
    batches = training_batches(
        Killer(samples, images, 8, Augmentation(), 0), BatchPlan(samples, 4, 0), 0, 3, list, workers=1
    )
    with pytest.raises(CcmbError, match=r"lower data\.num_workers"):
        next(batches)


class Patient(TrainingSet):
    """A worker that is asked to end, as by Ctrl-C in the terminal."""

    def __getitem__(self, key):
        for index in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), index)
        return super().__getitem__(key)


def test_workers_leave_signals_to_the_trainer(images):
    samples = [Sample(f"{n}.png", ("猫",)) for n in range(12)]
    dataset = Patient(samples, images, 8, Augmentation(), 0)
    assert len(list(training_batches(dataset, BatchPlan(samples, 4, 0), 0, 3, list, workers=1))) == 3


LEFT_BEHIND = """
from torch.utils.data import DataLoader
from ccmb.data.loader import leave_signals_to_the_trainer, read_ahead

ones = DataLoader([1] * 1000, collate_fn=list, num_workers=1, worker_init_fn=leave_signals_to_the_trainer)
items = read_ahead(ones)
next(items)
raise RuntimeError("an error that keeps the batches")
"""


def test_after_an_error_no_worker_keeps_the_process_from_its_end():
    ended = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert ended.stderr.endswith("RuntimeError: an error that keeps the batches\n")


def test_an_image_comes_with_several_of_its_texts_alike(images):
    samples = [Sample(f"{index}.png", tuple(f"{index}{word}" for word in "一二三四五")) for index in range(4)]
    dataset = TrainingSet(samples, images, 8, Augmentation(flip=True, min_crop_scale=0.3), seed=0, alike=True)
    plan = BatchPlan(samples, 2, seed=0)
    for batch in training_batches(dataset, plan, 0, 8, list, texts=3):
        assert [index for *_, index in batch] == [batch[0][2]] * 3 + [batch[3][2]] * 3
        for rows in (batch[:3], batch[3:]):
            assert len({text for _, text, _ in rows}) == 3
            assert all((pixels == rows[0][0]).all() for pixels, *_ in rows)


def test_the_first_of_several_texts_is_the_one_that_comes_alone():
    sample = Sample("a.png", tuple("一二三四五六"), fields=(tuple("一二三"), tuple("四五六")))
    for seed in range(20):
        for field, weights in ((None, None), (1, None), (None, [1.0, 2.0])):
            turns = [choose_text(sample, random.Random(seed), field, weights, turn) for turn in range(8)]
            assert turns[0] == choose_text(sample, random.Random(seed), field, weights)
            choices = 6 if field is None and weights is None else 3
            assert len(set(turns[:choices])) == choices  # all of them, then over again
            assert turns[choices:] == turns[: 8 - choices]
