"""Removing metadata (place, camera, owner, edits, previews) from an image file without a loss.

Colour profiles stay, since the colours need them. A file whose EXIF turns it, or whose format is not handled here, has
to be written anew by the caller.
"""

from __future__ import annotations

import struct

from ccmb.data.images.content import HEAD_BYTES, image_format
from ccmb.data.images.decoding import ORIENTATION, open_image

_PNG_KEPT = {
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV",
    b"cLLI", b"bKGD", b"pHYs", b"sPLT", b"hIST", b"acTL", b"fcTL", b"fdAT",
}  # fmt: skip
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}
_WEBP_EXIF_AND_XMP = 0b1100
# Markers of JPEG without a segment: the restarts and TEM.
_ALONE = {0x01, *range(0xD0, 0xD8)}


def without_metadata(data: bytes) -> bytes | None:
    """The file reduced to its pixels and colour profile, unchanged; None where that would need decoding.

    Args:
        data: a file that is known to decode.
    """
    strip = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": lambda data: data}
    format = image_format(data[:HEAD_BYTES])
    if format not in strip or _is_turned(data):
        return None
    try:
        return strip[format](data)
    except (ValueError, IndexError, struct.error):  # decoders pass over more damage than this
        return None


def _is_turned(data: bytes) -> bool:
    try:
        with open_image(data) as image:
            return bool(image.getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # damaged EXIF turns nothing
        return False


def _jpeg(data: bytes) -> bytes:
    """A JPEG up to the end of its image, without comments and without application segments.

    The segments of JFIF, Adobe and the colour profile stay.
    """
    kept, at = [data[:2]], 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker")
        while data[at + 1] == 0xFF:  # may be filled up
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            return b"".join([*kept, data[at : at + 2]])
        if marker in _ALONE:
            kept.append(data[at : at + 2])
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            raise ValueError("a segment is cut short")
        if not _names_no_colours(marker, data[at + 4 : at + 16]):
            kept.append(data[at:end])
        at = end
        if marker == 0xDA:
            end = _end_of_scan(data, at)
            kept.append(data[at:end])
            at = end


def _names_no_colours(marker: int, head: bytes) -> bool:
    if marker == 0xE2:
        return not head.startswith(b"ICC_PROFILE\0")
    if marker == 0xE0:
        return not head.startswith(b"JFIF\0")
    return marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)


def _end_of_scan(data: bytes, at: int) -> int:
    """The offset of the marker that ends a scan: neither a restart nor an escaped byte of the pixels."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        if data[at + 1] not in (0x00, 0xFF, *range(0xD0, 0xD8)):
            return at
        at += 1 if data[at + 1] == 0xFF else 2
    raise ValueError("no end")


def _png(data: bytes) -> bytes:
    kept, at = [data[:8]], 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ValueError("a chunk is cut short")
        if kind in _PNG_KEPT:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end


def _webp(data: bytes) -> bytes:
    kept, at = [b"WEBP"], 12
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at < end:
        kind, length = struct.unpack_from("<4sI", data, at)
        chunk = data[at : at + 8 + length + length % 2]
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_EXIF_AND_XMP]) + chunk[9:]
        if kind in _WEBP_KEPT:
            kept.append(chunk)
        at += 8 + length + length % 2
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(data: bytes) -> bytes:
    """A GIF unchanged.

    Raises:
        ValueError: it may hold a comment or XMP.
    """
    if b"\x21\xfe" in data or b"XMP Data" in data:
        raise ValueError("written anew")
    return data
