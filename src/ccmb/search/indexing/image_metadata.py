"""The metadata of an image in an index: sizes, date, fingerprint, thumbnail."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from PIL import Image

from ccmb.core.hashing import sha256_of_bytes
from ccmb.data.images.content import suffix_of_format
from ccmb.data.images.decoding import decode, open_image
from ccmb.data.images.near_duplicates import COLOUR, DISTANCE, select_fingerprints
from ccmb.data.images.perceptual_hash import ImageFingerprints, image_fingerprint, join_fingerprints
from ccmb.data.images.transforms import within
from ccmb.search.filters import seconds_of
from ccmb.search.vector_store import Entry

THUMBNAIL = 320  # pixels of the longer side at most
_QUALITY = 80
_EXIF, _TAKEN, _CHANGED = 0x8769, 0x9003, 0x0132  # the block with DateTimeOriginal, that, and DateTime


@dataclass(frozen=True, slots=True)
class ExaminedImage:
    """A complete entry, with the image (RGB) and its thumbnail (JPEG)."""

    entry: Entry
    image: Image.Image
    thumbnail: bytes


def digest_of(data: bytes) -> str:
    return sha256_of_bytes(data)[:32]


def examine(entry: Entry, data: bytes, changed: int | None = None) -> ExaminedImage:
    """Complete an entry from the bytes of its file.

    Args:
        changed: when the file was changed, in seconds; used if the image does not say when it was taken.

    Raises:
        ValueError: the bytes are not a readable image; the message says why.
    """
    image = decode(data)
    shape, colours = image_fingerprint(image)
    completed = replace(
        entry, digest=digest_of(data), looks=f"{shape:016x}{colours.hex()}",
        date=_date_taken(data) or changed, width=image.width, height=image.height, bytes=len(data),
    )  # fmt: skip
    return ExaminedImage(completed, image, thumbnail(image))


def thumbnail(image: Image.Image) -> bytes:
    """The bytes of a small JPEG copy."""
    small, file = within(image, THUMBNAIL, Image.Resampling.BILINEAR), io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def suffix_of(data: bytes) -> str | None:
    """The suffix of an image's format; None if its format is unknown."""
    try:
        with open_image(data) as image:
            return suffix_of_format(image.format or "")
    except Exception:  # decoders raise nearly anything on damaged data
        return None


def fingerprints_of(texts: Sequence[str]) -> ImageFingerprints:
    """The fingerprints in the `looks` fields of entries."""
    return join_fingerprints((int(text[:16], 16), bytes.fromhex(text[16:])) for text in texts)


def near_duplicate_groups(texts: Sequence[str], max_groups: int) -> Iterator[tuple[int, int]]:
    """Pairs of an index and the index of its group's first image, in order, by entries' `looks`.

    An image joins the first earlier group whose first image it is a near duplicate of; if there is none, it begins
    a group. Stops when there are `max_groups` groups.
    """
    fingerprints = fingerprints_of(texts)
    representative_indices: list[int] = []
    for index in range(len(fingerprints)):
        fingerprint = select_fingerprints(fingerprints, np.array([index]))
        representatives = select_fingerprints(fingerprints, np.array(representative_indices, dtype=np.int64))
        shapes = np.bitwise_count(representatives.shapes ^ fingerprint.shapes) <= DISTANCE
        colours = (
            np.abs(representatives.colours.astype(np.int16) - fingerprint.colours).max(axis=1, initial=0) <= COLOUR
        )
        near = np.flatnonzero(shapes & colours)
        if len(near):
            yield index, representative_indices[near[0]]
        elif len(representative_indices) == max_groups:
            return
        else:
            representative_indices.append(index)
            yield index, index


def _date_taken(data: bytes) -> int | None:
    """When an image was taken, or else changed, by its EXIF, in seconds; None if unknown."""
    try:
        with open_image(data) as image:
            exif = image.getexif()
            text = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_CHANGED)
        return seconds_of(datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S"))
    except Exception:  # there is none, or damaged EXIF, of which decoders may raise anything
        return None
