"""Images to pixels: shapes, values, and variations that stay inside their limits."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from ccmb.data.images.transforms import (
    Augmentation,
    _random_box,
    _random_square_box,
    augment,
    normalise,
    speaks_of_sides,
    square,
)
from tests.helpers.exact import product_error

HALVES = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=0).repeat(4, axis=1)).convert("RGB")


def test_square_gives_the_image_itself_at_its_own_size():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(square(Image.fromarray(pixels), 8), pixels)


def test_square_squeezes_the_whole_image():
    wide = square(HALVES.resize((64, 16)), 8)
    assert wide.shape == (8, 8, 3)
    assert wide[:, 0].max() < 30
    assert wide[:, -1].min() > 225


def test_normalise_is_clips_on_channels_first():
    pixels = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = torch.stack([(pixels[..., c] / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalise(pixels), expected, rtol=0, atol=product_error(4, 4.0))  # of float32


def test_without_options_augment_is_square():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    np.testing.assert_array_equal(augment(image, 8, Augmentation(), random.Random(0)), square(image, 8))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    crop=st.floats(0.01, 1),
    flip=st.booleans(),
    colour=st.floats(0, 0.9),
    shift=st.floats(0, 0.49),
    seed=st.integers(),
)
def test_any_augmentation_of_any_image_has_the_size_and_repeats_by_seed(width, height, crop, flip, colour, shift, seed):
    image = Image.effect_noise((width, height), 80).convert("RGB")
    options = Augmentation(min_crop_scale=crop, flip=flip, color_jitter=colour, shift=shift)
    pixels = augment(image, 16, options, random.Random(seed))
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, augment(image, 16, options, random.Random(seed)))


@given(st.floats(0.05, 0.999), st.integers(0, 2**32))
def test_crops_keep_their_share_inside_the_image_and_stretch_little(smallest, seed):
    left, top, right, bottom = _random_box(1000, 500, smallest, random.Random(seed))
    assert 0 <= left < right <= 1000
    assert 0 <= top < bottom <= 500
    wide, high = (right - left) / 1000, (bottom - top) / 500
    assert wide * high >= smallest - 0.003
    assert 3 / 4 - 0.02 <= wide / high <= 4 / 3 + 0.02


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 0.999), st.integers(0, 2**32))
def test_square_crops_lie_inside_the_image(width, height, smallest, seed):
    left, top, right, bottom = _random_square_box(width, height, smallest, random.Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_square_crops_are_those_of_the_official_code():
    """As torchvision's RandomResizedCrop(scale=(0.5, 1)): sides of 3 : 4 to 4 : 3 whatever the image's own shape."""
    rng = random.Random(0)
    shares = []
    for _ in range(300):
        left, top, right, bottom = _random_square_box(500, 375, 0.5, rng)
        assert 3 / 4 - 0.01 <= (right - left) / (bottom - top) <= 4 / 3 + 0.01
        shares.append((right - left) * (bottom - top) / (500 * 375))
    assert 0.49 < min(shares) < 0.52
    assert max(shares) > 0.9
    # No box of that shape has half of the area of so wide an image: its middle, as near to its own shape as may be.
    assert _random_square_box(400, 100, 0.5, rng) == (133, 0, 266, 100)
    assert _random_square_box(100, 400, 0.5, rng) == (0, 133, 100, 266)
    wide = Image.effect_noise((400, 100), 80).convert("RGB")
    options = Augmentation(min_crop_scale=0.5, crop_shape="square")
    middle = square(wide.crop((133, 0, 266, 100)), 16)
    np.testing.assert_array_equal(augment(wide, 16, options, random.Random(0)), middle)


def test_half_of_the_images_are_mirrored_where_they_may_be():
    rng = random.Random(0)
    mirrored = [augment(HALVES, 8, Augmentation(flip=True), rng)[0, 0, 0] == 255 for _ in range(200)]
    assert 70 < sum(mirrored) < 130
    kept = [augment(HALVES, 8, Augmentation(flip=True), rng, may_mirror=False)[0, 0, 0] for _ in range(50)]
    assert set(kept) == {0}


@given(st.text(), st.sampled_from("左右"), st.text())
def test_every_text_with_left_or_right_speaks_of_sides(before, side, after):
    assert speaks_of_sides(before + side + after)
    remaining = (before + after).replace("左", "").replace("右", "")
    assert not speaks_of_sides(remaining)


def test_a_shift_repeats_the_edges_and_reaches_its_limit():
    rng = random.Random(0)
    edges = [int((augment(HALVES, 8, Augmentation(shift=0.25), rng)[0, :, 0] == 0).sum()) for _ in range(100)]
    assert set(edges) == {2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    "wrong", [{"min_crop_scale": 0}, {"min_crop_scale": 1.1}, {"color_jitter": 1}, {"shift": 0.5}, {"flips": True}]
)
def test_augmentation_refuses_values_out_of_range(wrong):
    with pytest.raises(ValidationError):
        Augmentation(**wrong)
