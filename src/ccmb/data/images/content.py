"""The kind of a file by its first bytes: an image and its format, or something else that lies among images."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec

# Endings that images usually have. An ending alone never refuses a file: see `may_be_image`.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
# Endings of files that lie among images and are none. Raw files of cameras would pass for TIFF, and give a preview.
OTHER_SUFFIXES = (
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".pq", ".tar", ".gz", ".tgz", ".zip", ".md", ".html", ".xml",
    ".yaml", ".yml", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".py", ".log", ".cls", ".mp4", ".lock", ".tmp",
    ".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf", ".svg", ".pdf", ".mdb", ".db",
)  # fmt: skip
HEAD_BYTES = 64

_BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_PNM = re.compile(rb"P[1-6]\s+[0-9#]")
_OTHERS = (
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS; run git lfs pull"),
    (re.compile(rb"/annex/objects/"), "a pointer of git-annex; run git annex get"),
    (re.compile(rb"(?s)\s*(<\?xml.*?)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg", re.IGNORECASE), "an SVG drawing"),
    (re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE), "a web page"),
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"PK\x03\x04"), "a zip"),
    (re.compile(rb"\x1f\x8b"), "compressed by gzip"),
    (re.compile(rb"8BPS"), "a file of Photoshop; export it as PNG"),
)


def image_format(head: bytes) -> str | None:
    """Pillow's word for the format ("JXL" for JPEG XL) of a file that begins so, or None where it is no image.

    Args:
        head: at least the first `HEAD_BYTES` bytes, or the whole file.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return "JPEG2000"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JXL"
    if head[4:8] == b"ftyp":
        return _format_of_brands(head)
    return "PPM" if _PNM.match(head) else None


def _format_of_brands(head: bytes) -> str | None:
    """AVIF, HEIF or None, by the brands of a boxed file.

    A still AVIF may name a brand of HEIF first, and its own among the compatible brands.
    """
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, length, 4))]
    return next((format for format, known in _BRANDS.items() if any(brand in known for brand in brands)), None)


def is_image_name(name: str) -> bool:
    """Whether the name ends as those of images do."""
    return name.lower().endswith(SUFFIXES)


def may_be_image(name: str) -> bool:
    """Whether only the content can decide: the name has neither an image's ending nor another known one."""
    return not name.lower().endswith((*SUFFIXES, *OTHER_SUFFIXES))


def suffix_of_format(format: str) -> str:
    """The usual ending of a format's files, such as ".png"."""
    return {"JPEG": ".jpeg", "MPO": ".jpeg", "JPEG2000": ".jp2", "HEIF": ".heic"}.get(format, f".{format.lower()}")


def suffix_for(name: str, data: bytes) -> str:
    """The ending under which a shard stores an image. The image's format decides, not its name."""
    ending = "." + name.lower().rpartition(".")[2]
    format = image_format(data[:HEAD_BYTES])
    if format == "JPEG":
        return ending if ending in (".jpg", ".jpeg") else ".jpg"
    return suffix_of_format(format) if format else ".jpg"


def why_not_an_image(data: bytes, known: tuple[str, ...]) -> str:
    """The reason why bytes cannot be read as an image, for a message.

    Args:
        known: the formats that are read.
    """
    format = image_format(data[:HEAD_BYTES])
    if format == "HEIF":
        return "a HEIC image, which needs pillow-heif: pip install pillow-heif, or convert it to JPEG"
    if format == "AVIF" and format not in known:
        return "an AVIF image, which this Pillow cannot read: pip install -U 'pillow>=11.3', or convert it to JPEG"
    if format is not None and format not in known:
        return f"an image of the format {format}, which Pillow cannot read here; convert it to PNG or JPEG"
    for pattern, what in _OTHERS:
        if pattern.match(data[:1024]):
            return f"not an image but {what}"
    return f"not an image, or damaged (known: {', '.join(known)})"


def add_heif() -> bool:
    """Let Pillow read HEIC if pillow-heif is installed, and return whether it is."""
    if find_spec("pillow_heif") is None:
        return False
    import_module("pillow_heif").register_heif_opener()
    return True
