"""Reading drawn images: true scenes at the generator's side, images with nothing on them, and shares of texts."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import read_pairs
from ccmb.scenes.close_ups import AMOUNT_WEIGHTS, write_close_ups
from ccmb.scenes.corpus import write_scene_corpus
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.generation import things_generated
from ccmb.scenes.image_parser import parse_image
from ccmb.scenes.scene import BACKGROUNDS, COLOURS, KINDS, Scene, Thing, random_scene
from ccmb.scenes.texts import detail

SIDE = 24  # of the images that `drawn-generation` paints


def close_up(rng: random.Random) -> Scene:
    thing = Thing(rng.choice(KINDS), rng.choice(COLOURS), rng.choice(list(AMOUNT_WEIGHTS)), "middle")
    return Scene((thing,), rng.choice(BACKGROUNDS), rng.random() < 0.5)


def test_of_true_images_at_the_generators_side_more_than_98_in_a_hundred_are_read_right() -> None:
    rng = random.Random(7)
    scenes = [close_up(rng) for _ in range(100)]
    seen = [parse_image(render_scene(scene, SIDE, rng)) for scene in scenes]
    right = [
        [seen_thing.thing for seen_thing in seen_things] == list(scene.things)
        for seen_things, scene in zip(seen, scenes, strict=True)
    ]
    assert np.mean(right) > 0.98


def test_all_things_of_a_scene_are_read_in_the_order_of_their_places() -> None:
    rng = random.Random(3)
    scenes = [random_scene(rng) for _ in range(20)]
    seen = [[seen_thing.thing for seen_thing in parse_image(render_scene(scene, 48, rng))] for scene in scenes]
    assert np.mean([things == list(scene.things) for things, scene in zip(seen, scenes, strict=True)]) >= 0.9


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_nothing_is_seen_where_nothing_is_drawn(background: str) -> None:
    for night in (False, True):
        empty = Scene((), background, night)
        assert parse_image(render_scene(empty, SIDE, random.Random(99)), close_up=True) == []
        assert parse_image(render_scene(empty, 40, random.Random(99))) == []


def test_noise_shows_nothing() -> None:
    rng = np.random.default_rng(0)
    assert parse_image(Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)), close_up=True) == []
    assert parse_image(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))) == []


def test_shares_are_of_what_the_text_says_and_a_thing_more_counts_as_wrong() -> None:
    rng = random.Random(0)
    boat, house = Thing("帆船", "红", "big", "left"), Thing("房子", "蓝", "big", "right")
    shown = [render_scene(Scene(things, "草地", False), 48, rng) for things in ((boat,), (boat, house), ())]
    text = detail(boat, rng)
    shares = things_generated(shown, [text] * 3)
    assert shares is not None
    assert shares["everything"].tolist() == [1, 0.5, 0]
    other = things_generated(shown[:1], [text.replace("红", "绿")])
    assert other is not None
    assert (other["colour"][0], other["kind"][0], other["kind_and_colour"][0]) == (0, 1, 0)
    assert things_generated(shown[:1], ["两只猫睡在沙发上"]) is None


def test_combinations_of_kind_and_colour_of_one_split_are_in_no_other(tmp_path: Path) -> None:
    counts = {"train": 60, "val": 10, "test": 20}
    write_close_ups(tmp_path / "things", counts, 32)
    lines = {split: read_pairs(tmp_path / "things" / "pairs.jsonl", split, ["details"]) for split in counts}
    assert {split: len(split_lines) for split, split_lines in lines.items()} == counts
    images = ImageSource.open(tmp_path / "things" / "images.tar")
    assert images.load(lines["train"][0].image).size == (32, 32)
    before = (tmp_path / "things" / "pairs.jsonl").read_bytes()
    write_close_ups(tmp_path / "things", counts, 32)
    write_close_ups(tmp_path / "again", counts, 32)
    assert (tmp_path / "again" / "pairs.jsonl").read_bytes() == before
    with pytest.raises(CcmbError, match="another corpus"):
        write_scene_corpus(tmp_path / "things", 6, 3, 3, 32)
