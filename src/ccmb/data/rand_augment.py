"""RandAugment (Cubuk et al. 2020): some operations, drawn evenly, each of one magnitude for the whole training.

The ten operations are those of the official fine-tuning. None of them mirrors, so that left stays left; how far each
goes at a magnitude is our choice, and so is that a drawn one is left out half of the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps
from pydantic import BaseModel, ConfigDict, Field

GREY = (128, 128, 128)  # what fills the corners
HIGHEST = 10.0
# At the highest magnitude: change of brightness and sharpness, slope, share of the side, degrees.
ENHANCE, SHEAR, TRANSLATE, ROTATE = 0.9, 0.3, 10 / 224, 30.0


class RandAugment(BaseModel):
    """How many operations, and how far each goes."""

    model_config = ConfigDict(extra="forbid")
    operations: int = Field(2, gt=0, description="drawn for each picture, with replacement")
    magnitude: float = Field(5.0, ge=0, le=HIGHEST, description="of each, from 0 (nothing) to 10")
    probability: float = Field(0.5, gt=0, le=1, description="of a drawn operation to be applied (our choice)")


def rand_augment(image: Image.Image, options: RandAugment, rng: random.Random) -> Image.Image:
    """A random variation of an RGB picture, of the same size."""
    for _ in range(options.operations):
        operation, sign = rng.choice(OPERATIONS), rng.choice((-1, 1))
        if rng.random() < options.probability:
            image = operation(image, sign * options.magnitude / HIGHEST)
    return image


# Each takes the picture and its magnitude in [-1, 1].
Operation = Callable[[Image.Image, float], Image.Image]


def _identity(image: Image.Image, strength: float) -> Image.Image:
    return image


def _auto_contrast(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.equalize(image)


def _brightness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + ENHANCE * strength)


def _sharpness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + ENHANCE * strength)


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
    """Each point of the result comes from (a x + b y + c, d x + e y + f) of the picture."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


OPERATIONS: tuple[Operation, ...] = (
    _identity, _auto_contrast, _equalize, _brightness, _sharpness,
    _shear_x, _shear_y, _translate_x, _translate_y, _rotate,
)  # fmt: skip
