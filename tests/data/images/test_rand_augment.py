"""RandAugment: repeats by seed, stays within its magnitude, and never mirrors."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from pydantic import ValidationError

from ccmb.data.images.rand_augment import GREY, OPERATIONS, Operation, RandAugment, rand_augment
from ccmb.data.images.transforms import Augmentation, augment, square

SIDE = 64


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    values = np.random.default_rng(0).integers(40, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(values)


@given(seed=st.integers(0, 10**6), operations=st.integers(1, 4), magnitude=st.floats(0, 10))
def test_the_same_seed_gives_the_same_image(seed: int, operations: int, magnitude: float) -> None:
    image = Image.effect_noise((37, 23), 80).convert("RGB")
    options = Augmentation(min_crop_scale=0.5, rand_augment=RandAugment(num_ops=operations, magnitude=magnitude))
    one, other = (augment(image, 16, options, random.Random(seed)) for _ in range(2))
    assert one.shape == (16, 16, 3)
    np.testing.assert_array_equal(one, other)


def test_every_operation_is_drawn_about_as_often(monkeypatch: pytest.MonkeyPatch, noise: Image.Image) -> None:
    counts = [0] * len(OPERATIONS)

    def counting(position: int) -> Operation:
        def count(image: Image.Image, strength: float) -> Image.Image:
            assert abs(strength) == 0.5
            counts[position] += 1
            return image

        return count

    monkeypatch.setattr("ccmb.data.images.rand_augment.OPERATIONS", tuple(map(counting, range(10))))
    rng = random.Random(0)
    for _ in range(2000):
        rand_augment(noise, RandAugment(num_ops=2, magnitude=5), rng)
    assert sum(counts) == pytest.approx(2000, rel=0.05)  # of two drawn one is applied
    assert min(counts) > 150
    assert max(counts) < 250


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_at_magnitude_nothing_no_operation_moves_the_image(operation: Operation, noise: Image.Image) -> None:
    changed = not np.array_equal(pixels(operation(noise, 0.0)), pixels(noise))
    assert changed == (operation.__name__ in ("_auto_contrast", "_equalize", "_brightness", "_sharpness"))


@pytest.mark.parametrize("name", ["_brightness", "_sharpness"])
def test_brightness_and_sharpness_are_those_of_the_official_code(name: str, noise: Image.Image) -> None:
    """There the factor is magnitude / 10 * 1.8 + 0.1 whatever the sign: 1, and so nothing, at magnitude 5."""
    operation = next(item for item in OPERATIONS if item.__name__ == name)
    enhancer = {"_brightness": ImageEnhance.Brightness, "_sharpness": ImageEnhance.Sharpness}[name](noise)
    for strength in (0.5, -0.5):
        np.testing.assert_array_equal(pixels(operation(noise, strength)), pixels(noise))
    for strength, factor in ((0.0, 0.1), (0.25, 0.55), (-0.25, 0.55), (1.0, 1.9), (-1.0, 1.9)):
        np.testing.assert_array_equal(pixels(operation(noise, strength)), pixels(enhancer.enhance(factor)))


@pytest.mark.parametrize("strength", [-1.0, 1.0])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_no_operation_mirrors_or_loses_the_image(operation: Operation, strength: float) -> None:
    # A bright spot on the left, a dark one on the right: their order stays.
    image = Image.new("RGB", (SIDE, SIDE), GREY)
    image.paste((200, 200, 200), (8, 24, 24, 40))
    image.paste((60, 60, 60), (40, 24, 56, 40))
    result = pixels(operation(image, strength))
    assert result.shape == (SIDE, SIDE, 3)
    columns = result.mean((0, 2)) - np.median(result)
    assert columns.argmax() < columns.argmin()


def test_a_translation_moves_by_its_share_of_the_side() -> None:
    image = Image.new("RGB", (224, 224))
    image.paste((255, 255, 255), (100, 0, 101, 224))
    for strength, column in ((1.0, 90), (-1.0, 110), (0.5, 95)):
        moved = pixels(OPERATIONS[7](image, strength))[:, :, 0]
        assert moved[112].argmax() == column


def test_without_it_nothing_is_drawn_for_it(noise: Image.Image) -> None:
    plain, rng = Augmentation(), random.Random(3)
    before = rng.getstate()
    np.testing.assert_array_equal(augment(noise, 16, plain, rng), square(noise, 16))
    assert rng.getstate() == before


def test_a_magnitude_beyond_the_scale_is_refused() -> None:
    with pytest.raises(ValidationError, match="magnitude"):
        RandAugment(magnitude=11)
