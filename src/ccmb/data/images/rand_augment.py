"""RandAugment (Cubuk et al. 2020): a few operations, sampled evenly, all of one magnitude for the whole training.

Three things are those of the official fine-tuning (yuxie11/R2D2, data/randaugment.py): the ten operations, how far each
goes at a magnitude, and that a sampled operation is left out half of the time. Brightness and sharpness have the factor
0.1 at magnitude 0, 1 (no change) at magnitude 5, which the official recipes use, and 1.9 at magnitude 10. No operation
mirrors, so left stays left.

Two things are deliberately different. A translation is a share of the side; it equals the official ten pixels at 224
pixels only. And Pillow samples between pixels instead of OpenCV, which differs by a fraction of a pixel.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from ccmb.core.config.base import ConfigBase

GREY = (128, 128, 128)  # what fills the corners
HIGHEST = 10.0
# At the highest magnitude: slope, share of the side, degrees.
SHEAR, TRANSLATE, ROTATE = 0.3, 10 / 224, 30.0


class RandAugment(ConfigBase):
    """How many operations are applied, and how far each goes."""

    RETIRED: ClassVar = {"operations": "num_ops"}
    num_ops: int = Field(2, gt=0, description="drawn for each image, with replacement")
    magnitude: float = Field(
        5.0, ge=0, le=HIGHEST, description="of each, from 0 to 10; at 5 brightness and sharpness stay as they are"
    )
    probability: float = Field(0.5, gt=0, le=1, description="of a drawn operation to be applied")


def rand_augment(image: Image.Image, options: RandAugment, rng: random.Random) -> Image.Image:
    """A random variation of an RGB image, of the same size."""
    for _ in range(options.num_ops):
        operation, sign = rng.choice(OPERATIONS), rng.choice((-1, 1))
        if rng.random() < options.probability:
            image = operation(image, sign * options.magnitude / HIGHEST)
    return image


# Each takes the image and its magnitude in [-1, 1].
Operation = Callable[[Image.Image, float], Image.Image]


def _identity(image: Image.Image, strength: float) -> Image.Image:
    return image


def _auto_contrast(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.equalize(image)


def _brightness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_enhancement(strength))


def _sharpness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_enhancement(strength))


def _enhancement(strength: float) -> float:
    """The factor of an enhancement, in [0.1, 1.9]; unlike slopes and angles it has no sign."""
    return 0.1 + 1.8 * abs(strength)


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1, SHEAR * strength, 0, 0, 1, 0))


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1, 0, 0, SHEAR * strength, 1, 0))


def _translate_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1, 0, TRANSLATE * strength * image.width, 0, 1, 0))


def _translate_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, TRANSLATE * strength * image.height))


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(ROTATE * strength, Image.Resampling.BILINEAR, fillcolor=GREY)


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    """The image transformed: point (x, y) of the result is point (a x + b y + c, d x + e y + f) of the image."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


OPERATIONS: tuple[Operation, ...] = (
    _identity, _auto_contrast, _equalize, _brightness, _sharpness,
    _shear_x, _shear_y, _translate_x, _translate_y, _rotate,
)  # fmt: skip
