"""Image fingerprints of 56 bytes, by which copies are found: shape in 64 bits, colours in 48 bytes.

The shape is the perceptual hash pHash: which of the 64 lowest frequencies of the grey image (a discrete cosine
transform at 32 x 32) are above their median. It hardly changes with size, JPEG quality, brightness and contrast.

The shape is blind to colour and to small things. Two offers of a shirt in red and in blue have the same shape, and so
have two drawn scenes with different things on the same ground. Therefore the mean colours of a 4 x 4 grid go with it,
and a near duplicate has to be near in both (see `ccmb.data.images.near_duplicates`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccmb.core.progress import progress
from ccmb.data.images.source import ImageSource, UnreadableImageError

_SIDE, _LOW, GRID = 32, 8, 4
COLOUR_BYTES = GRID * GRID * 3
_COSINES = np.cos(np.pi * np.outer(np.arange(_LOW), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))
_GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class ImageFingerprints:
    """The fingerprints of N images.

    Attributes:
        shapes: (N,) uint64.
        colours: (N, 48) uint8, mean red, green and blue of each cell of the grid. The overall mean is moved to the
            middle first, so that brightness does not count.
    """

    shapes: NDArray[np.uint64]
    colours: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.shapes)


def fingerprint_pixels(image: Image.Image) -> Image.Image:
    """The image (RGB) at 32 x 32. The fingerprint depends on these pixels alone, and is the same for both."""
    return image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)


def image_fingerprint(image: Image.Image) -> tuple[int, bytes]:
    """Shape and colours of one image (RGB); those of a blank image are meaningless."""
    pixels = np.asarray(fingerprint_pixels(image), dtype=np.float64)
    low = (_COSINES @ (pixels @ _GREY) @ _COSINES.T).ravel()
    shape = np.packbits(low > np.median(low[1:]))
    cell = _SIDE // GRID
    means = pixels.reshape(GRID, cell, GRID, cell, 3).mean((1, 3)).ravel()
    colours = np.clip(np.rint(means - means.mean() + 128), 0, 255).astype(np.uint8)
    return int.from_bytes(shape.tobytes(), "big"), colours.tobytes()


def join_fingerprints(fingerprints: Iterable[tuple[int, bytes]]) -> ImageFingerprints:
    """Collect the fingerprints of single images."""
    pairs = list(fingerprints)
    shapes = np.array([shape for shape, _ in pairs], dtype=np.uint64)
    colours = np.frombuffer(b"".join(colour for _, colour in pairs), dtype=np.uint8)
    return ImageFingerprints(shapes, colours.reshape(-1, COLOUR_BYTES))


def fingerprints_of_images(images: ImageSource, names: Iterable[str]) -> ImageFingerprints:
    """The fingerprints of a test set's images, so that a corpus can be kept clear of them.

    Unreadable images are left out.
    """
    names, fingerprints = list(names), []
    with progress("looks", len(names), "images") as advance:
        for name in names:
            with suppress(UnreadableImageError):
                fingerprints.append(image_fingerprint(images.load(name)))
            advance()
    return join_fingerprints(fingerprints)
