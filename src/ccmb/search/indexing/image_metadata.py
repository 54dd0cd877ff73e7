"""What an index keeps of a picture besides its vector: sizes, date, looks, a thumbnail."""

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
class Examined:
    """An entry that is complete, with the picture (RGB) and its thumbnail (JPEG)."""

    entry: Entry
    image: Image.Image
    thumbnail: bytes


def digest_of(data: bytes) -> str:
    return sha256_of_bytes(data)[:32]


def examine(entry: Entry, data: bytes, changed: int | None = None) -> Examined:
    """Complete an entry from the bytes of its file.

    Args:
        changed: when the file was changed; counts where the picture does not say when it was taken.

    Raises:
        ValueError: the bytes are not a readable picture; the message says why.
    """
    image = decode(data)
    shape, colours = image_fingerprint(image)
    whole = replace(
        entry, digest=digest_of(data), looks=f"{shape:016x}{colours.hex()}",
        date=_date_taken(data) or changed, width=image.width, height=image.height, bytes=len(data),
    )  # fmt: skip
    return Examined(whole, image, thumbnail(image))


def thumbnail(image: Image.Image) -> bytes:
    """A small copy as JPEG."""
    small, file = within(image, THUMBNAIL, Image.Resampling.BILINEAR), io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def suffix_of(data: bytes) -> str | None:
    """Suffix of a picture's format; None if it is not one of a known format."""
    try:
        with open_image(data) as image:
            return suffix_of_format(image.format or "")
    except Exception:  # decoders raise nearly anything on damaged data
        return None


def looks_of(texts: Sequence[str]) -> ImageFingerprints:
    """Of entries' `looks`."""
    return join_fingerprints((int(text[:16], 16), bytes.fromhex(text[16:])) for text in texts)


def groups_of_near(texts: Sequence[str], most: int) -> Iterator[tuple[int, int]]:
    """For each of some entries' `looks`, in order, its number and that of the first one that it is a near duplicate
    of, which is its own if there is none; ends when there are `most` groups."""
    found = looks_of(texts)
    firsts: list[int] = []
    for number in range(len(found)):
        ours, ones = (
            select_fingerprints(found, np.array([number])),
            select_fingerprints(found, np.array(firsts, dtype=np.int64)),
        )
        shapes = np.bitwise_count(ones.shapes ^ ours.shapes) <= DISTANCE
        colours = np.abs(ones.colours.astype(np.int16) - ours.colours).max(axis=1, initial=0) <= COLOUR
        near = np.flatnonzero(shapes & colours)
        if len(near):
            yield number, firsts[near[0]]
        elif len(firsts) == most:
            return
        else:
            firsts.append(number)
            yield number, number


def _date_taken(data: bytes) -> int | None:
    """What the EXIF of a picture says, in seconds."""
    try:
        with open_image(data) as image:
            exif = image.getexif()
            text = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_CHANGED)
        return seconds_of(datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S"))
    except Exception:  # there is none, or damaged EXIF, of which decoders may raise anything
        return None
