"""Filters of images, and what is stored of a download: small functions with plain truths."""

from __future__ import annotations

import hashlib
import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccmb.corpus.download.filters import ZERO, ImageFilters, animated, blank, bomb, spread, too_long, too_small
from ccmb.corpus.download.resize import StoredForm, prepare
from ccmb.data.images.source import decode
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import random_scene

SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
ANY = ImageFilters(min_short_side=0, max_aspect_ratio=1000, keep_animated=True, min_gray_std=0)


def scene(size: int = 160, seed: int = 0) -> Image.Image:
    rng = random.Random(seed)
    return render_scene(random_scene(rng), size, rng)


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@given(SIZES, st.integers(0, 300), st.floats(1, 10))
def test_size_filters_know_no_orientation(size: tuple[int, int], side: int, ratio: float) -> None:
    turned = size[::-1]
    assert too_small(size, side) == too_small(turned, side)
    assert too_long(size, ratio) == too_long(turned, ratio)
    assert (too_small(size, side) is None) == (size[0] >= side and size[1] >= side)
    assert (too_long(size, ratio) is None) == (size[0] / size[1] <= ratio and size[1] / size[0] <= ratio)
    assert (bomb(size, 10**6) is None) == (size[0] * size[1] <= 10**6)


@given(SIZES)
def test_zero_keeps_what_has_one_side_of_a_hundred(size: tuple[int, int]) -> None:
    kept = not too_small(size, ZERO.min_short_side, ZERO.min_long_side)
    assert kept == (size[0] >= 100 or size[1] >= 100)


def test_what_is_near_constant_is_blank() -> None:
    noise = np.random.default_rng(0).normal(200, 2, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    assert blank(Image.new("RGB", (300, 200), "navy"), 3.0) == "blank"
    assert blank(Image.fromarray(noise), 3.0) == "blank"
    assert blank(scene(), 3.0) is None
    assert min(spread(scene(96, seed)) for seed in range(50)) > 9


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animations_are_found_by_their_frames(format: str) -> None:
    frames = [scene(seed=seed) for seed in range(3)]
    moving = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    still = encoded(frames[0], format)
    assert animated(Image.open(io.BytesIO(moving))) == "animated"
    assert animated(Image.open(io.BytesIO(still))) is None
    assert prepare(moving, StoredForm(), ImageFilters()).status == "animated"
    assert prepare(moving, StoredForm(), ImageFilters(keep_animated=True)).status == "ok"


def test_pages_and_previews_are_no_animation() -> None:
    frames = [scene(seed=seed) for seed in range(2)]
    for format in ("TIFF", "MPO"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert prepare(data, StoredForm(), ImageFilters()).status == "ok", format


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (scene(99), "too_small"), (scene(100), "ok"),
        (scene(400).resize((400, 133)), "aspect_ratio"), (scene(400).resize((400, 134)), "ok"),
        (Image.new("RGB", (200, 200), "red"), "blank"),
    ],
)  # fmt: skip
def test_the_default_filters(image: Image.Image, status: str) -> None:
    prepared = prepare(encoded(image), StoredForm(), ImageFilters())
    assert prepared.status == status
    assert (prepared.width, prepared.height) == image.size
    assert bool(prepared.image) is (status == "ok")


def test_bombs_are_refused_by_their_header() -> None:
    for size in ((9000, 9000), (20000, 20000)):
        header = encoded(Image.new("1", size), "PNG")
        assert prepare(header, StoredForm(), ImageFilters()).status == "too_many_pixels"


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_bytes_of_any_kind_are_a_status(garbage: bytes, cut: int) -> None:
    assert prepare(garbage, StoredForm(), ImageFilters()).status == "not_an_image"
    damaged = encoded(scene())[:cut] + garbage
    prepared = prepare(damaged, StoredForm(), ImageFilters())
    assert prepared.status in ("not_an_image", "undecodable")
    assert prepared.sha256 == hashlib.sha256(damaged).hexdigest()


@given(
    st.tuples(st.integers(16, 600), st.integers(16, 600)), st.integers(8, 300),
    st.sampled_from(["short_side", "long_side", "crop"]), st.sampled_from(["JPEG", "PNG"]),
)  # fmt: skip
def test_stored_images_have_the_size_asked_for(size: tuple[int, int], side: int, fit: str, format: str) -> None:
    image = scene().resize(size)
    form = StoredForm.model_validate({"image_size": side, "mode": fit})
    prepared = prepare(encoded(image, format), form, ANY)
    stored = decode(prepared.image)
    assert stored.size == (prepared.stored_width, prepared.stored_height)
    assert prepared.stored_sha256 == hashlib.sha256(prepared.image).hexdigest()
    short, long = min(size), max(size)
    if fit == "crop":
        assert stored.size == (min(short, side),) * 2
    elif (short if fit == "short_side" else long) <= side:
        assert stored.size == size
    else:
        assert (min if fit == "short_side" else max)(stored.size) == side
        shrunk = side / (short if fit == "short_side" else long)
        assert all(abs(now - max(1, was * shrunk)) <= 0.5 for now, was in zip(stored.size, size, strict=True))


def test_a_small_jpeg_stays_as_it_came_and_all_else_becomes_one() -> None:
    jpeg, png = encoded(scene(), quality=71), encoded(scene(), "PNG")
    assert prepare(jpeg, StoredForm(), ImageFilters()).image == jpeg
    assert Image.open(io.BytesIO(prepare(png, StoredForm(), ImageFilters()).image)).format == "JPEG"
    assert prepare(jpeg, StoredForm(image_size=None), ImageFilters()).image == jpeg


def test_a_jpeg_decoded_at_a_part_of_its_size_looks_the_same() -> None:
    image = scene(1600)
    fast = decode(prepare(encoded(image, quality=95), StoredForm(image_size=200), ImageFilters()).image)
    plain = image.resize((200, 200), Image.Resampling.BICUBIC)
    difference = np.asarray(fast, dtype=float) - np.asarray(plain, dtype=float)
    assert np.sqrt((difference**2).mean()) < 4


def test_a_photograph_that_lies_on_its_side_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    prepared = prepare(encoded(scene(400).resize((400, 200)), exif=exif), StoredForm(image_size=100), ImageFilters())
    assert (prepared.width, prepared.height, prepared.stored_width, prepared.stored_height) == (200, 400, 100, 200)


def test_damaged_exif_does_not_cost_an_image() -> None:
    data = encoded(scene(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert prepare(data, StoredForm(), ImageFilters()).status == "ok"
