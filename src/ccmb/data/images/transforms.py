"""Images to pixels: the one resize and normalisation of training, evaluation and search, and light augmentation.

Pixels are uint8 (S, S, 3) until they are on the model's device; `normalise` makes them (B, 3, S, S) float32.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.retired_keys import Retired
from ccmb.data.images.rand_augment import RandAugment, rand_augment

if TYPE_CHECKING:
    from torch import Tensor

# CLIP's statistics of RGB in [0, 1], which the official code uses.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Augmentation(ConfigBase):
    """How training images are varied."""

    RETIRED: ClassVar = {
        "crop": "min_crop_scale",
        "crop_shape": Retired("crop_shape", {"picture": "image"}),
        "colour": "color_jitter",
    }
    min_crop_scale: float = Field(
        1.0, gt=0, le=1, description="smallest share of the area that a crop keeps; 1 is no crop"
    )
    crop_shape: Literal["image", "square"] = Field(
        "image",
        description="what crops are stretched from, by at most 4/3 either way: the image's own shape, in which "
        "evaluation sees it (our choice), or a square, as in the official code",
    )
    flip: bool = Field(False, description="mirror half of the images, but none whose texts say left or right")
    color_jitter: float = Field(0.0, ge=0, lt=1, description="largest change of brightness, contrast and saturation")
    shift: float = Field(0.0, ge=0, lt=0.5, description="largest shift, as a share of the side, edges repeated")
    rand_augment: RandAugment | None = Field(
        None, description="further operations at random, as in {num_ops: 2, magnitude: 5}; none of them mirrors"
    )
    num_views: int | None = Field(
        None,
        gt=0,
        description="so many fixed variations of each image, of which one is drawn each time, instead of a new one: "
        "the image as it is, then varied ones of which every other is mirrored; "
        "what frozen parts of the image tower make of them can then be stored",
    )

    @property
    def varies(self) -> bool:
        """Whether an image is varied at all."""
        changes = self.min_crop_scale < 1, self.flip, self.color_jitter, self.shift, self.rand_augment is not None
        return any(changes)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Resize straight to a square with bicubic sampling, as the official evaluation does: uint8 (size, size, 3)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image.convert("RGB"))


def within(image: Image.Image, side: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The image shrunk until no side is longer than `side`. Even a very thin image keeps at least one pixel a side."""
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), resample)


def augment(
    image: Image.Image,
    size: int,
    options: Augmentation,
    rng: random.Random,
    may_mirror: bool = True,
    mirrored: bool | None = None,
) -> np.ndarray:
    """A random variation of the image: uint8 (size, size, 3).

    Args:
        may_mirror: False where a text of the image speaks of left or right.
        mirrored: whether it is, where `options` say that half of the images are; by default drawn.
    """
    if options.min_crop_scale < 1:
        draw_box = _random_box if options.crop_shape == "image" else _random_square_box
        image = image.crop(draw_box(image.width, image.height, options.min_crop_scale, rng))
    if options.flip and may_mirror and (rng.random() < 0.5 if mirrored is None else mirrored):
        image = ImageOps.mirror(image)
    if options.color_jitter:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(1 + rng.uniform(-options.color_jitter, options.color_jitter))
    if options.rand_augment:
        small = image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
        image = rand_augment(small, options.rand_augment, rng)
    pixels = square(image, size)
    return _shift(pixels, options.shift, rng) if options.shift else pixels


def fixed_view(digest: bytes, view: int) -> random.Random:
    """The random numbers of one of an image's fixed variations, see `Augmentation.num_views`.

    Args:
        digest: of the image's content.
    """
    return random.Random(f"{digest.hex()}/{view}")


def speaks_of_sides(text: str) -> bool:
    """Whether mirroring the image could make the text false."""
    return "左" in text or "右" in text


def normalise(pixels_BSSC: Tensor, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> Tensor:
    """uint8 (B, S, S, 3) to normalised float32 (B, 3, S, S); `mean` and `std` are of RGB in [0, 1]."""
    import torch  # two seconds that the corpus, whose recipes name an augmentation, can do without

    mean_C = torch.tensor(mean, device=pixels_BSSC.device)
    std_C = torch.tensor(std, device=pixels_BSSC.device)
    return ((pixels_BSSC.float() / 255 - mean_C) / std_C).permute(0, 3, 1, 2).contiguous()


def _random_box(width: int, height: int, smallest: float, rng: random.Random) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of at least the share `smallest` of the area, stretched by at most 4/3."""
    area = rng.uniform(smallest, 1.0)
    widest = math.log(min(4 / 3, 1 / area))  # wider boxes would not fit
    aspect = math.exp(rng.uniform(-widest, widest))
    w = max(1, min(width, round(width * math.sqrt(area * aspect))))
    h = max(1, min(height, round(height * math.sqrt(area / aspect))))
    left, top = rng.randint(0, width - w), rng.randint(0, height - h)
    return left, top, left + w, top + h


def _random_square_box(width: int, height: int, smallest: float, rng: random.Random) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of at least the share `smallest` of the area, with sides of 3 : 4 to 4 : 3.

    It is sampled as torchvision's RandomResizedCrop does, which the official code uses: area and shape are sampled up
    to ten times, until the box fits. If none fits, it is the middle of the image, in the allowed shape nearest to the
    image's own.
    """
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _shift(pixels: np.ndarray, share: float, rng: random.Random) -> np.ndarray:
    """Move the image by up to `share` of its side in each direction, with its edges repeated."""
    reach = round(share * pixels.shape[0])
    down, right = rng.randint(0, 2 * reach), rng.randint(0, 2 * reach)
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    return padded[down : down + pixels.shape[0], right : right + pixels.shape[1]]
