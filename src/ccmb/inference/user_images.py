"""Images that a user names one by one: some of them may not be readable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import image_of
from ccmb.inference.stages import Encoder
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput

SHOWN = 3  # unreadable images that a message names


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image that an encoder has read already, see `Encoder.prepare`; equal images have equal digests."""

    value: Any
    digest: str = ""


AnyImage = ImageInput | Prepared


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


def encode_readable(encoder: Encoder, images: Sequence[AnyImage]) -> ReadImages:
    """Encode those of some images that can be read, all at once; each is made small before the next is opened."""
    prepared, errors = prepare_readable(encoder.prepare, images)
    output = encoder.encode_prepared(list(prepared.values())) if prepared else None
    return ReadImages(list(prepared), output, errors)


def prepare_readable(
    prepare: Callable[[ImageInput], Any], images: Sequence[AnyImage]
) -> tuple[dict[int, Any], dict[int, str]]:
    """What a model reads of the images that can be read, and why the others cannot be; both by index."""
    prepared, errors = dict[int, Any](), dict[int, str]()
    for index, image in enumerate(images):
        try:
            prepared[index] = image.value if isinstance(image, Prepared) else prepare(image)
        except CcmbError as error:
            errors[index] = str(error)
    return prepared, errors


def open_image(image: ImageInput) -> Image.Image:
    """Open an image for a model that takes PIL images alone.

    Raises:
        CcmbError: it cannot be read, or is an array, which only R2D2 reads.
    """
    if isinstance(image, str | Path | bytes | Image.Image):
        return image_of(image)
    raise CcmbError(f"a {type(image).__name__}: this model reads paths, bytes of image files and PIL images")


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
