"""Synthetic scenes: true texts, twins, disjoint splits, and a corpus that its seed alone decides."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import read_pairs
from ccmb.scenes.corpus import write_scene_corpus
from ccmb.scenes.drawing import DRAWERS, FILLS, GROUND_FILLS, render_scene
from ccmb.scenes.scene import (
    AMOUNTS,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    SWAPS,
    Scene,
    Split,
    Thing,
    random_scene,
    random_swap,
    scene_groups,
    swapped,
)
from ccmb.scenes.texts import CAPTIONS, DETAILS, GROUNDS, MEASURES, NUMBERS, PLACES, SIZES, TIMES, caption, describe

scenes = st.integers(0, 10**6).map(lambda seed: random_scene(random.Random(seed)))
BOAT_AND_HOUSE = Scene((Thing("帆船", "红", "big", "left"), Thing("房子", "蓝", "three", "right")), "草地", False)


def test_the_world_is_wide_and_every_part_of_it_can_be_drawn_and_said() -> None:
    assert len(KINDS) >= 24
    assert set(KINDS) == set(DRAWERS) == set(MEASURES)
    assert set(COLOURS) == set(FILLS)
    assert set(BACKGROUNDS) == set(GROUND_FILLS) == set(GROUNDS)
    assert set(AMOUNTS) == set(NUMBERS) == set(SIZES)


@given(scenes, st.integers(0, 10**6))
def test_every_caption_tells_colour_amount_and_kind_of_every_thing_and_the_background(scene: Scene, seed: int) -> None:
    texts = describe(scene, random.Random(seed))
    assert len(set(texts.captions)) == CAPTIONS
    for text in texts.captions:
        assert any(time in text for time in TIMES[scene.night])
        assert scene.background in text or any(ground in text for ground in GROUNDS[scene.background])
        for thing in scene.things:
            amount = NUMBERS[thing.amount] + MEASURES[thing.kind]
            size = SIZES[thing.amount]
            assert any(f"{amount}{thing.colour}色{particle}{size}{thing.kind}" in text for particle in ("", "的"))


@given(scenes, st.integers(0, 10**6))
def test_places_in_captions_are_where_the_things_are(scene: Scene, seed: int) -> None:
    """A caption is read back clause by clause: a place word belongs to the thing of its clause, or, where one thing
    is said to be on some side of the other, to the thing that is there."""
    for family in range(CAPTIONS):
        text = caption(scene, family, random.Random(seed))
        words = {word: place for place in (t.place for t in scene.things) for word in PLACES[place]}
        positions = [(text.index(word), word) for word in words if word in text]
        longest = [
            (at, word) for at, word in positions if not any(word != other and word in other for _, other in positions)
        ]
        for at, word in longest:
            thing = next(thing for thing in scene.things if thing.place == words[word])
            other_kinds = [other.kind for other in scene.things if other is not thing]
            clause = next(part for part in _clauses(text) if part[0] <= at < part[1])
            inside = text[clause[0] : clause[1]]
            if all(kind in inside for kind in other_kinds):  # a relation between two things
                thing_at = inside.index(thing.kind)
                other = inside.index(other_kinds[0])
                assert thing_at < other if "有" not in inside else thing_at > other
            else:
                assert thing.kind in inside
                assert not any(kind in inside for kind in other_kinds)


@given(scenes, st.integers(0, 10**6))
def test_details_say_all_of_one_thing_alone(scene: Scene, seed: int) -> None:
    details = describe(scene, random.Random(seed)).details
    assert len(details) == DETAILS * len(scene.things)
    for index, text in enumerate(details):
        thing = scene.things[index // DETAILS]
        assert thing.kind in text
        assert f"{thing.colour}色" in text
        assert any(word in text for word in PLACES[thing.place])
        assert not any(other.kind in text for other in scene.things if other is not thing)


def _clauses(text: str) -> list[tuple[int, int]]:
    ends = [at for at, sign in enumerate(text) if sign in ",。:"]
    return list(itertools.pairwise([0, *[end + 1 for end in ends]]))


@given(scenes, st.sampled_from(SWAPS), st.integers(0, 10**6))
def test_twins_are_told_in_the_same_words_but_for_the_swap(scene: Scene, swap: str, seed: int) -> None:
    swapped_scene = swapped(scene, swap)  # type: ignore[arg-type]
    if swapped_scene is None:
        assert swap == "amount"
        assert scene.things[0].amount == scene.things[1].amount
        return
    assert swapped_scene.split == scene.split
    for family in range(CAPTIONS):
        text, false_text = (caption(which, family, random.Random(seed)) for which in (scene, swapped_scene))
        assert text != false_text
        if swap != "amount":  # an amount brings its measure words with it
            assert sorted(text) == sorted(false_text)


def test_swaps_exchange_one_attribute_and_the_things_stay_in_the_order_of_their_places() -> None:
    boat, house = BOAT_AND_HOUSE.things
    assert swapped(BOAT_AND_HOUSE, "colour").things == (
        Thing("帆船", "蓝", "big", "left"), Thing("房子", "红", "three", "right"),
    )  # type: ignore[union-attr]  # fmt: skip
    assert swapped(BOAT_AND_HOUSE, "amount").things[0].amount == house.amount  # type: ignore[union-attr]
    assert [t.kind for t in swapped(BOAT_AND_HOUSE, "place").things] == [house.kind, boat.kind]  # type: ignore[union-attr]
    assert [t.place for t in swapped(BOAT_AND_HOUSE, "place").things] == ["left", "right"]  # type: ignore[union-attr]


def test_no_composition_is_in_two_splits_and_none_comes_twice() -> None:
    seen: dict[Split, set[Scene]] = {}
    kinds_and_colours: dict[Split, set[tuple[str, ...]]] = {}
    for split in ("train", "val", "test"):
        groups = list(itertools.islice(scene_groups(split, seed=3, swapped_share=0.5), 400))
        flat = [scene for group in groups for scene in group]
        assert len(set(flat)) == len(flat)
        assert 0.3 < sum(len(group) == 2 for group in groups) / len(groups) < 0.7
        seen[split] = set(flat)
        kinds_and_colours[split] = {
            tuple(sorted(t.kind for t in s.things) + sorted(t.colour for t in s.things)) for s in flat
        }
    for one, other in itertools.combinations(seen, 2):
        assert not seen[one] & seen[other]
        assert not kinds_and_colours[one] & kinds_and_colours[other]


def test_every_scene_of_a_group_has_a_twin_if_all_are_asked_for() -> None:
    for first, *others in itertools.islice(scene_groups("train", seed=1, swapped_share=1.0, neighbours=2), 50):
        neighbours, swapped_scenes = others[:2], others[2:]
        for scene, swapped_scene in zip((first, *neighbours), swapped_scenes, strict=True):
            assert sum(one != other for one, other in zip(scene.things, swapped_scene.things, strict=True)) == 2
            for attribute in ("kind", "colour", "amount"):
                values = [
                    sorted(getattr(thing, attribute) for thing in one_scene.things)
                    for one_scene in (scene, swapped_scene)
                ]
                assert values[0] == values[1]


def test_neighbours_share_places_background_and_time_alone() -> None:
    for scene, *neighbours in itertools.islice(scene_groups("train", seed=1, swapped_share=0.0, neighbours=3), 30):
        assert len({scene, *neighbours}) == 4
        for neighbour in neighbours:
            assert (neighbour.background, neighbour.night) == (scene.background, scene.night)
            assert [thing.place for thing in neighbour.things] == [thing.place for thing in scene.things]


def test_a_thing_is_drawn_in_its_colour_at_its_place() -> None:
    pixels = np.asarray(render_scene(BOAT_AND_HOUSE, 96, random.Random(0))).astype(int)
    for thing in BOAT_AND_HOUSE.things:
        distance = np.abs(pixels - np.array(FILLS[thing.colour])).sum(2)
        columns = np.nonzero(distance < 30)[1]
        assert len(columns) > 40
        assert (columns < 48).all() if thing.place == "left" else (columns >= 48).all()


@given(scenes)
def test_a_random_swap_always_changes_the_scene(scene: Scene) -> None:
    swap, swapped_scene = random_swap(scene, random.Random(1))
    assert swap in SWAPS
    assert swapped_scene != scene


def test_a_corpus_reads_as_own_pairs_and_its_held_out_captions_are_unique(tmp_path: Path) -> None:
    write_scene_corpus(tmp_path, train=30, gallery=60, validation=10, size=48)
    assert len(read_pairs(tmp_path / "pairs.jsonl", "train", ["captions"])) == 30
    gallery = read_pairs(tmp_path / "pairs.jsonl", "test", ["captions"])
    texts = [text for sample in gallery for text in sample.texts]
    assert len(set(texts)) == len(texts) == 60 * CAPTIONS
    images = ImageSource.open(tmp_path / "images.tar")
    assert {images.load(sample.image).size for sample in gallery} == {(48, 48)}
    for sample in gallery:
        (pair,) = sample.extra["minimal_pairs"]  # type: ignore[index]
        assert pair["text"] != pair["false_text"]


def test_the_seed_alone_decides_a_corpus_and_drawing_again_leaves_it_alone(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_scene_corpus(tmp_path / name, train=6, gallery=4, validation=2, size=32, seed=seed)
    files = {
        name: [(tmp_path / name / file).read_bytes() for file in ("pairs.jsonl", "images.tar")]
        for name in ("one", "same", "other")
    }
    assert files["one"] == files["same"]
    assert files["one"] != files["other"]
    before = (tmp_path / "one" / "images.tar").stat().st_mtime_ns
    write_scene_corpus(tmp_path / "one", train=6, gallery=4, validation=2, size=32)
    assert (tmp_path / "one" / "images.tar").stat().st_mtime_ns == before
    with pytest.raises(CcmbError, match="another corpus"):
        write_scene_corpus(tmp_path / "one", train=7, gallery=4, validation=2, size=32)


def test_a_stopped_drawing_leaves_no_half_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ccmb.scenes.corpus.describe", stop)
    with pytest.raises(KeyboardInterrupt):
        write_scene_corpus(tmp_path, train=6, gallery=4, validation=2, size=32)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write_scene_corpus(tmp_path, train=6, gallery=4, validation=2, size=32)
    assert len((tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()) == 12
