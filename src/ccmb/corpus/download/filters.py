"""Filters of images. Each is a small pure function that returns None to keep an image, or the drop reason.

| filter | default | source |
|---|---|---|
| short side | 100 px | DanQing keeps images of more than 100 px |
| aspect ratio | 3 | DanQing keeps 1:3 to 3:1 |
| animated | dropped | our choice: a text does not name its frame |
| blank | spread of grey below 3 of 255 | our choice, measured: the smallest of 6,000 photographs is 9 |
| bomb | 80,000,000 pixels | the limit of all images, `ccmb.data.images.source.MAX_PIXELS` |

Second-hand sources report other limits for the Zero corpus itself: it dropped an image only if both sides were below
100 px, or if the ratio was beyond 1:4 to 4:1. `ZERO` has these limits.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field

from ccmb.core.config.base import ConfigBase
from ccmb.data.images.perceptual_hash import fingerprint_pixels
from ccmb.data.images.source import MAX_PIXELS


class ImageFilters(ConfigBase):
    """Which images are kept."""

    model_config = ConfigDict(frozen=True)
    RETIRED: ClassVar = {"max_ratio": "max_aspect_ratio", "animated": "keep_animated", "min_spread": "min_gray_std"}
    min_short_side: int = Field(100, ge=0, description="minimum pixels of the short side (DanQing)")
    min_long_side: int = Field(0, ge=0, description="minimum pixels of the long side")
    max_aspect_ratio: float = Field(3.0, ge=1, description="maximum ratio of the long side to the short side (DanQing)")
    keep_animated: bool = Field(False, description="keep the first frame of animated images (our choice: drop them)")
    min_gray_std: float = Field(
        3.0, ge=0, description="standard deviation of grey (0 to 255) below which an image is blank (our choice)"
    )


# The limits of the Zero corpus by second-hand sources; not verified in its paper.
ZERO = ImageFilters(min_short_side=0, min_long_side=100, max_aspect_ratio=4.0)


def too_small(size: tuple[int, int], min_short_side: int, min_long_side: int = 0) -> str | None:
    return "too_small" if min(size) < min_short_side or max(size) < min_long_side else None


def too_long(size: tuple[int, int], max_ratio: float) -> str | None:
    return "aspect_ratio" if max(size) > max_ratio * min(size) else None


def bomb(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> str | None:
    return "too_many_pixels" if size[0] * size[1] > max_pixels else None


def animated(image: Image.Image) -> str | None:
    """Filter animated images. Pages of a TIFF, and previews that phones add to a JPEG, are no animation."""
    moves = image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False)
    return "animated" if moves else None


def blank(image: Image.Image, min_spread: float) -> str | None:
    return "blank" if spread(image) < min_spread else None


def spread(image: Image.Image) -> float:
    """Standard deviation of grey, from 0 to 128, of an RGB image at 32 x 32 pixels."""
    return float(np.asarray(fingerprint_pixels(image).convert("L"), dtype=np.float32).std())


def header_reason(image: Image.Image, filters: ImageFilters) -> str | None:
    """The drop reason by the header of an image, before it is decoded; None keeps it."""
    return (
        bomb(image.size)
        or too_small(image.size, filters.min_short_side, filters.min_long_side)
        or too_long(image.size, filters.max_aspect_ratio)
        or (None if filters.keep_animated else animated(image))
    )


def pixel_reason(image: Image.Image, filters: ImageFilters) -> str | None:
    """The drop reason by the pixels of an image; None keeps it."""
    return blank(image, filters.min_gray_std)
