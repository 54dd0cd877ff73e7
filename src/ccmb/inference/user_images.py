"""Images that a user names one by one: some of them may not be readable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import image_of
from ccmb.inference.stages import Encoder, R2D2Encoder
from ccmb.r2d2.processing import ImageInput, R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput

SHOWN = 3  # unreadable images that a message names


@dataclass(frozen=True, slots=True)
class ReadImages:
    """Images that a user gave; those that can be read are encoded.

    Attributes:
        indices: of the readable ones, among those given.
        output: they encoded, in this order; None where none can be read.
        errors: why the others, by their index, cannot be read.
    """

    indices: list[int]
    output: TowerOutput | None
    errors: dict[int, str]


def encode_readable(encoder: Encoder, images: Sequence[ImageInput]) -> ReadImages:
    """Encode those of some images that can be read, all at once."""
    if isinstance(encoder, R2D2Encoder):  # which makes each image small before it opens the next
        indices, pixels_B3SS, errors = read_pixels(encoder.processor, images)
        return ReadImages(indices, encoder.encode_pixels(pixels_B3SS) if indices else None, errors)
    opened, errors = dict[int, Image.Image](), dict[int, str]()
    for index, image in enumerate(images):
        try:
            opened[index] = _open(image)
        except CcmbError as error:
            errors[index] = str(error)
    return ReadImages(list(opened), encoder.encode_images(list(opened), opened.__getitem__) if opened else None, errors)


def _open(image: ImageInput) -> Image.Image:
    """Open an image for a model that takes PIL images alone.

    Raises:
        CcmbError: it cannot be read, or is an array, which only R2D2 reads.
    """
    if isinstance(image, str | Path | bytes | Image.Image):
        return image_of(image)
    raise CcmbError(f"a {type(image).__name__}: this model reads paths, bytes of image files and PIL images")


def read_pixels(processor: R2D2Processor, images: Sequence[ImageInput]) -> tuple[list[int], Tensor, dict[int, str]]:
    """Indices and pixels (B, 3, S, S) of the images that can be read, and the errors of the others by index."""
    pixels, errors = dict[int, Tensor](), dict[int, str]()
    for index, image in enumerate(images):
        try:
            pixels[index] = processor.images([image])
        except CcmbError as error:
            errors[index] = str(error)
    return list(pixels), torch.cat(list(pixels.values())) if pixels else torch.empty(0), errors


def check_any_read(errors: Sequence[str | None]) -> None:
    """Refuse images of which none could be read.

    Args:
        errors: why each image could not be read; None of one that could.

    Raises:
        CcmbError: there are images, and none could be read.
    """
    if errors and all(errors):
        raise CcmbError(str(errors[0]) if len(errors) == 1 else f"none of the images could be read ({errors[0]})")


def unreadable_images(errors: Sequence[str], count: int) -> CcmbError:
    """The error to raise if some of `count` images cannot be read, with their reasons."""
    if len(errors) == 1:
        return CcmbError(errors[0])
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    return CcmbError(f"{len(errors)} of {count} images cannot be read: {'; '.join(errors[:SHOWN])}{more}")
