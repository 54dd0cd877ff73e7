"""Decoding: the bytes of an image file, or a PIL object, become upright sRGB of 8 bits.

Animated images and files of several pages give their first frame.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as _pillow

from ccmb.data.images.content import HEAD_BYTES, add_heif, image_format, why_not_an_image

# Plain raster formats only: Pillow would hand others, such as EPS, to outside programs.
_AVIF = ("AVIF",) if tuple(int(part) for part in _pillow.split(".")[:2]) >= (11, 3) else ()
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", *_AVIF)
MAX_PIXELS = 80_000_000

ORIENTATION = 0x0112
# The possible values of white in deep grey, by Pillow's mode: integers (16-bit files, then 32-bit ones), floats.
_WHITES = {"I": (65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# In levels of 255. A profile that differs from sRGB by no more is taken for sRGB, and its images stay unchanged.
_SAME = 2


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of a file's bytes as RGB, see `rgb_of`.

    Raises:
        ValueError: it is not an image, is damaged, or has more than `max_pixels`; the message says which.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(data)
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            return rgb_of(image)
    except Image.DecompressionBombError:
        raise ValueError(f"more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise ValueError(why_not_an_image(data, FORMATS)) from None
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise ValueError(f"damaged ({error or type(error).__name__})") from None


def open_image(data: bytes) -> Image.Image:
    """The image as Pillow opens it, with its header read and its pixels not yet.

    Raises:
        UnidentifiedImageError: its format is not known here.
        Exception: whatever decoders raise on damaged data.
    """
    if image_format(data[:HEAD_BYTES]) == "HEIF" and add_heif():
        return Image.open(io.BytesIO(data), formats=("HEIF",))
    return Image.open(io.BytesIO(data), formats=FORMATS)


def rgb_of(image: Image.Image) -> Image.Image:
    """The image as upright sRGB of 8 bits.

    It is turned as its EXIF says and converted by its colour profile, transparency becomes white, and deep grey is
    scaled to 8 bits. White is 65,535 in mode I, or the greatest 32-bit number if pixels exceed that. White is 1 in
    mode F, or 255 or 65,535 if pixels exceed twice the smaller value. An image that is RGB, upright and without a
    profile may be returned itself. The result carries neither profile nor EXIF, so that nothing is applied twice.

    Raises:
        Exception: what decoders raise on damaged data.
    """
    image.load()
    profile = image.info.get("icc_profile")
    turned = upright(image)
    colours, alpha = _split(turned)
    converted = _to_srgb(colours, profile if isinstance(profile, bytes) else None)
    if alpha is not None:
        white = Image.new("RGB", converted.size, "white")
        white.paste(converted, mask=alpha)
        converted = white
    if converted is image:
        if type(image) is Image.Image and not image.info:
            return image
        converted = image.copy()  # also lets go of the file
    converted.info = {}
    converted.getexif().clear()
    return converted


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; the same object where nothing is to be turned."""
    try:
        if image.getexif().get(ORIENTATION, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not make an image unreadable
        return image


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours (mode L, RGB, CMYK or LAB) and the alpha channel (mode L), or None where nothing is transparent."""
    if image.mode.startswith(("I", "F")):
        return _shallow(image), None
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if image.mode == "LA":
            return image.getchannel("L"), alpha
        return (image.convert("L") if image.mode == "L" else image.convert("RGBA").convert("RGB")), alpha
    if image.mode in ("RGB", "L", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _shallow(image: Image.Image) -> Image.Image:
    """Deep grey (modes I and F) scaled to 8 bits."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    whites = _WHITES["F" if image.mode == "F" else "I"]
    brightest = float(grey.max(initial=0))
    white = next((white for white in whites if brightest <= 2 * white), whites[-1])
    return Image.fromarray(((grey / white).clip(0, 1) * 255).round().astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image in a mode of `_split` as RGB. A damaged profile, or one of another colour space, is ignored."""
    mode = image.mode
    if mode == "LAB":
        transform = _lab_transform()
    else:
        transform = None if profile is None else _transform(profile, mode)
    if transform is None:
        return image if mode == "RGB" else image.convert("RGB")
    from PIL import ImageCms

    converted: Image.Image | None = ImageCms.applyTransform(image, transform)
    assert converted is not None, "not in place"
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform from a profile to sRGB by the profile's default intent; None if images can stay unchanged."""
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "CMYK":
            probe = Image.fromarray(_probe()) if mode == "RGB" else Image.fromarray(_probe()).getchannel(0)
            after = np.asarray(ImageCms.applyTransform(probe, transform), dtype=np.int16)
            if np.abs(after - np.asarray(probe.convert("RGB"), dtype=np.int16)).max() <= _SAME:
                return None
        return transform
    except Exception:  # a damaged profile, or a Pillow without littlecms
        return None


@lru_cache(maxsize=1)
def _lab_transform() -> Any:
    from PIL import ImageCms

    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _probe() -> np.ndarray:
    """(8, 64, 3) uint8: every combination of eight levels of red, green and blue."""
    levels = np.linspace(0, 255, 8).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(8, 64, 3)
