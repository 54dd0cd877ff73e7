"""Near duplicates: no pair within the distance is missed, copies are found, and other images are left alone."""

from __future__ import annotations

import io
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from ccmb.data.images.near_duplicates import (
    duplicate_groups,
    in_test_set,
    near_pairs,
    representatives,
    select_fingerprints,
)
from ccmb.data.images.perceptual_hash import (
    COLOUR_BYTES,
    ImageFingerprints,
    fingerprints_of_images,
    image_fingerprint,
    join_fingerprints,
)
from ccmb.data.images.source import ImageSource, decode
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import random_scene

# Photographs are no part of the project; they are looked for in $CCMB_DATA, or beside the checkout.
DATA = Path(os.environ.get("CCMB_DATA", Path(__file__).parents[4] / "shared" / "data")) / "flickr8k-cn"
# Synthetic scenes are alike by design: many share the ground and the places of their things.
DRAWN = {"distance": 6, "colour": 12}

Copy = Callable[[Image.Image, random.Random], Image.Image]


def recompressed(quality: int) -> Copy:
    def copy(image: Image.Image, rng: random.Random) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return decode(buffer.getvalue())

    return copy


def resized(scale: float) -> Copy:
    return lambda image, rng: image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)


def brighter(factor: float) -> Copy:
    return lambda image, rng: ImageEnhance.Brightness(image).enhance(factor)


def cropped(share: float) -> Copy:
    """Up to so much is cut off each side."""

    def copy(image: Image.Image, rng: random.Random) -> Image.Image:
        left, right = (round(image.width * rng.uniform(0, share)) for _ in range(2))
        top, bottom = (round(image.height * rng.uniform(0, share)) for _ in range(2))
        return image.crop((left, top, image.width - right, image.height - bottom))

    return copy


COPIES: dict[str, Copy] = {
    "the same": lambda image, rng: image, "half as large": resized(0.5), "1.5 times as large": resized(1.5),
    "quality 50": recompressed(50), "quality 20": recompressed(20), "brighter": brighter(1.1), "darker": brighter(0.9),
    "cropped by 2 %": cropped(0.02), "cropped by 3 %": cropped(0.03),
    "cropped and smaller": lambda image, rng: resized(0.7)(cropped(0.02)(image, rng), rng),
}  # fmt: skip


def scenes(count: int, seed: int = 1) -> list[Image.Image]:
    rng = random.Random(seed)
    return [render_scene(random_scene(rng), 128, rng) for _ in range(count)]


def photographs(count: int) -> list[Image.Image]:
    if not DATA.exists():
        pytest.skip("no flickr8k-cn")
    lines = map(json.loads, (DATA / "captions.jsonl").read_text(encoding="utf-8").splitlines())
    names = [line["image"] for line in lines if line["split"] == "train"]
    images = ImageSource.open(DATA / "images.tar")
    return [images.load(name) for name in names[:count]]


def shares_found(images: list[Image.Image], **limits: int) -> dict[str, float]:
    """Of each kind of copy, the share that counts as a near duplicate of its image."""
    rng = random.Random(0)
    originals = join_fingerprints(map(image_fingerprint, images))
    result = {}
    for name, copy in COPIES.items():
        copies = join_fingerprints(image_fingerprint(copy(image, rng)) for image in images)
        pairs = {pair for block in near_pairs(originals, copies, **limits) for pair in zip(*block, strict=True)}
        result[name] = sum((index, index) in pairs for index in range(len(images))) / len(images)
    return result


@pytest.mark.parametrize("draw", [scenes, photographs])
def test_copies_are_found(draw: Callable[[int], list[Image.Image]]) -> None:
    result = shares_found(draw(300))
    assert result["the same"] == 1.0
    assert min(result.values()) >= 0.9, result


def test_copies_of_drawn_scenes_are_found_though_scenes_are_alike() -> None:
    result = shares_found(scenes(300), **DRAWN)
    assert result["the same"] == result["half as large"] == result["quality 50"] == 1.0
    assert result["cropped by 2 %"] >= 0.9, result


def wrong_pairs(images: list[Image.Image], **limits: int) -> set[tuple[int, int]]:
    """Pairs of images that count as near duplicates of each other though their files differ."""
    result = join_fingerprints(map(image_fingerprint, images))
    blocks = near_pairs(result, None, **limits)
    return {(min(pair), max(pair)) for block in blocks for pair in zip(*(side.tolist() for side in block), strict=True)}


def test_other_photographs_are_left_alone() -> None:
    images = photographs(2000)
    for one, other in wrong_pairs(images):  # of two million pairs; one photograph may be there twice
        difference = np.asarray(images[one], dtype=float) - np.asarray(images[other].resize(images[one].size))
        assert np.sqrt((difference**2).mean()) < 8


def test_few_drawn_scenes_are_taken_for_each_other() -> None:
    images = scenes(1000)
    pairs = len(images) * (len(images) - 1) // 2
    assert len(wrong_pairs(images)) / pairs < 5e-5
    assert len(wrong_pairs(images, **DRAWN)) / pairs < 5e-6


def test_the_same_drawing_in_other_colours_is_another_image() -> None:
    image = scenes(1)[0]
    red, green, blue = image.split()
    recoloured = Image.merge("RGB", (blue, green, red))
    grey = [image_fingerprint(one.convert("L").convert("RGB"))[0] for one in (image, image)]
    assert grey[0] == grey[1]
    assert not list(
        near_pairs(join_fingerprints([image_fingerprint(image)]), join_fingerprints([image_fingerprint(recoloured)]))
    )


def some_looks(rng: np.random.Generator, count: int, distinct: int, flips: int = 10) -> ImageFingerprints:
    """Copies of few distinct looks, with some bits flipped and colours moved."""
    shapes = rng.integers(0, 2**64, distinct, dtype=np.uint64)[rng.integers(0, distinct, count)]
    for _ in range(flips):
        flip = rng.random(count) < 0.5
        shapes[flip] ^= np.uint64(1) << rng.integers(0, 64, flip.sum(), dtype=np.uint64)
    return ImageFingerprints(shapes, rng.integers(100, 125, (count, COLOUR_BYTES)).astype(np.uint8))


def every_near_pair(
    ones: ImageFingerprints, others: ImageFingerprints, distance: int, colour: int
) -> set[tuple[int, int]]:
    """The plain way: all with all."""
    near = np.bitwise_count(ones.shapes[:, None] ^ others.shapes[None]) <= distance
    difference = np.abs(ones.colours[:, None].astype(int) - others.colours[None]).max(-1)
    return set(zip(*map(np.ndarray.tolist, np.nonzero(near & (difference <= colour))), strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(0, 24), st.sampled_from([0, 20, 23, 255]))
def test_no_pair_within_the_distance_is_missed(seed: int, count: int, distance: int, colour: int) -> None:
    rng = np.random.default_rng(seed)
    ones, others = some_looks(rng, count, 4), some_looks(rng, count + 3, 4)
    for within in (False, True):
        against = ones if within else others
        blocks = near_pairs(ones, None if within else others, distance, colour)
        result = {pair for block in blocks for pair in zip(*(side.tolist() for side in block), strict=True)}
        expected = every_near_pair(ones, against, distance, colour)
        if within:
            assert {(min(pair), max(pair)) for pair in result} == {pair for pair in expected if pair[0] < pair[1]}
        else:
            assert result == expected
        mask = in_test_set(ones, against, distance, colour)
        assert set(np.flatnonzero(mask).tolist()) == {one for one, _ in expected}


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 12))
def test_groups_are_what_chains_of_pairs_reach(seed: int, count: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    item = some_looks(rng, count, 5, flips=6)
    expected = list(range(count))  # the plain way: spread the least index until nothing changes
    pairs = every_near_pair(item, item, distance, 255)
    for _ in range(count):
        for one, other in pairs:
            expected[one] = min(expected[one], expected[other])
    assert duplicate_groups(item, distance, 255).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_what_is_kept_does_not_depend_on_the_order(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    item = some_looks(rng, count, 5, flips=6)
    areas, keys = rng.integers(1, 4, count), [f"key {index}" for index in rng.permutation(count)]
    kept = representatives(duplicate_groups(item), areas, keys)
    order = rng.permutation(count)
    again = representatives(
        duplicate_groups(select_fingerprints(item, order)), areas[order], [keys[index] for index in order]
    )
    assert kept[order].tolist() == again.tolist()
    groups = duplicate_groups(item)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        [winner] = [index for index in members if kept[index]]
        assert winner == min(members, key=lambda index: (-areas[index], keys[index]))


def test_looks_of_a_folder_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    images = scenes(3)
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    folder = ImageSource.open(tmp_path)
    result = fingerprints_of_images(folder, folder.names)
    assert result.shapes.tolist() == [image_fingerprint(image)[0] for image in images]
    assert in_test_set(result, select_fingerprints(result, np.array([1]))).tolist() == [False, True, False]


def test_nothing_is_near_nothing() -> None:
    none = join_fingerprints([])
    assert duplicate_groups(none).tolist() == []
    assert in_test_set(some_looks(np.random.default_rng(0), 3, 3), none).tolist() == [False] * 3
    assert in_test_set(none, none).tolist() == []


def test_a_hundred_thousand_take_seconds() -> None:
    shapes = some_looks(np.random.default_rng(0), 100_000, 50_000, flips=4).shapes
    item = ImageFingerprints(shapes, np.full((len(shapes), COLOUR_BYTES), 128, dtype=np.uint8))
    began = time.process_time()
    groups = duplicate_groups(item)
    assert time.process_time() - began < 15
    assert abs(len(np.unique(groups)) - 43_233) < 300  # so many of the 50,000 are drawn, and no copies are 9 bits apart


def test_many_copies_of_one_image_are_no_square() -> None:
    shapes = np.full(200_000, 7, dtype=np.uint64)
    item = ImageFingerprints(shapes, np.full((len(shapes), COLOUR_BYTES), 128, dtype=np.uint8))
    assert duplicate_groups(item).tolist() == [0] * len(shapes)
