"""Pictures by name, from a folder or an uncompressed tar, as upright RGB.

Nothing stays open between reads, so one `Pictures` may be pickled, forked and shared by threads.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import warnings
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ccmb.errors import CcmbError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Plain raster formats only: Pillow would hand others, such as EPS, to outside programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 80_000_000

# gzip, bzip2, xz, zstd, zip.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


class UnreadablePicture(CcmbError):
    """One picture cannot be used; the message is one line that names it and says why."""


class Extent(NamedTuple):
    """Where the bytes of a picture lie."""

    path: str
    offset: int
    size: int


class Pictures(ABC):
    """Pictures by name. A name is a relative path with forward slashes; those that lead outside are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def open(path: str | Path) -> Pictures:
        """The pictures of a folder (with its sub-folders) or of an uncompressed tar.

        Raises:
            CcmbError: there is no such folder or file, or it is not a whole, uncompressed tar.
        """
        path = Path(path)
        if path.is_dir():
            return FolderPictures(path)
        if path.is_file():
            return TarPictures(path)
        raise CcmbError(f"{path}: no such folder or tar of pictures")

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files with a picture's suffix, sorted; hidden ones are left out."""

    @abstractmethod
    def _find(self, name: str) -> Extent | None:
        """Where the regular file of a checked name lies, or None."""

    def __contains__(self, name: str) -> bool:
        """Whether there is a file of this name; it may yet be damaged."""
        inner = inner_name(name)
        return inner is not None and self._find(inner) is not None

    def raw(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            UnreadablePicture: it is not there, lies outside, is empty, cut short, or larger than MAX_BYTES.
        """
        inner = inner_name(name)
        if inner is None:
            raise self._unreadable(name, "not a name inside the folder or tar")
        try:
            extent = self._find(inner)
            if extent is None:
                raise self._unreadable(name, "no such picture")
            if extent.size == 0:
                raise self._unreadable(name, "the file is empty")
            if extent.size > MAX_BYTES:
                raise self._unreadable(name, f"{extent.size:,} bytes are more than the {MAX_BYTES:,} allowed")
            with open(extent.path, "rb") as file:
                file.seek(extent.offset)
                data = file.read(extent.size)
        except OSError as error:
            raise self._unreadable(name, error.strerror or str(error)) from None
        if len(data) < extent.size:
            raise self._unreadable(name, "the file is cut short")
        return data

    def load(self, name: str) -> Image.Image:
        """The picture as RGB, see `decode`.

        Raises:
            UnreadablePicture: see `raw` and `decode`.
        """
        data = self.raw(name)
        try:
            return decode(data)
        except ValueError as error:
            raise self._unreadable(name, str(error)) from None

    def _unreadable(self, name: str, reason: str) -> UnreadablePicture:
        line = " ".join(f"{self.path}/{name}: {reason}".split())
        return UnreadablePicture(line.encode("utf-8", "replace").decode())


class FolderPictures(Pictures):
    """Pictures in a folder; symbolic links count only where they lead to a file inside it."""

    @cached_property
    def names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(folder).relative_to(self.path)
            found += [(inside / name).as_posix() for name in files if _is_picture_name(name)]
        return sorted(found)

    def _find(self, name: str) -> Extent | None:
        root, path = os.path.realpath(self.path), os.path.realpath(self.path / name)
        if not os.path.isfile(path) or os.path.commonpath([root, path]) != root:
            return None
        return Extent(path, 0, os.path.getsize(path))


class TarPictures(Pictures):
    """Pictures in a tar, whose headers are read once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._members = _read_index(path)

    @cached_property
    def names(self) -> list[str]:
        return sorted(name for name in self._members if _is_picture_name(name))

    def _find(self, name: str) -> Extent | None:
        found = self._members.get(name)
        return Extent(str(self.path), *found) if found else None


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a file's bytes as RGB: turned as its EXIF says, transparency on white, deep grey scaled to 8 bits.

    Raises:
        ValueError: it is not a picture, is damaged, or has more than `max_pixels`; the message says which.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            image.load()
            return to_rgb(upright(image))
    except Image.DecompressionBombError:
        raise ValueError(f"more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise ValueError(f"not a picture, or damaged (known: {', '.join(FORMATS)})") from None
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise ValueError(f"damaged ({error or type(error).__name__})") from None


def load_picture(path: str | Path) -> Image.Image:
    """A picture that the user names by its path, as RGB, see `decode`.

    Raises:
        UnreadablePicture: it is missing or cannot be used; the message names it.
    """
    path = Path(path)
    # The folder that holds the file itself: a link may point anywhere, since it is the user who names it.
    target = path.resolve()
    try:
        return Pictures.open(target.parent).load(target.name)
    except UnreadablePicture as error:
        raise UnreadablePicture(str(error).replace(f"{target.parent}/{target.name}", str(path), 1)) from None
    except CcmbError:
        raise UnreadablePicture(f"{path}: no such picture") from None


def _read_index(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each regular file of a tar; of equal names the last counts, as for tar itself."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError("a file of negative size")
                name = inner_name(member.name)
                if name and member.isreg() and not member.issparse():
                    members[name] = member.offset_data, member.size
            # tarfile takes a broken header for the end; a whole tar ends in a block of zeros.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut short after {len(members)} files")
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None
    except (tarfile.TarError, ValueError) as error:
        reason = "it is compressed; decompress it first" if _is_compressed(path) else error
        raise CcmbError(f"{path}: not a readable tar of pictures ({reason})") from None
    return members


def _is_compressed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8).startswith(_COMPRESSED)


def inner_name(name: str) -> str | None:
    """The name without `./` and the like, or None where it is not a relative path that stays inside."""
    clean = posixpath.normpath(name)
    if not name or "\0" in name or clean.startswith("/") or clean == "." or clean.split("/")[0] == "..":
        return None
    return clean


def _is_picture_name(name: str) -> bool:
    parts = name.split("/")
    return parts[-1].lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in parts)


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not make a picture unreadable
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB: transparency on white, deep grey scaled to 8 bits."""
    if image.mode.startswith(("I", "F")):
        brightest = 1.0 if image.mode == "F" else 65535.0
        grey = np.nan_to_num(np.asarray(image, dtype=np.float32)) / brightest
        image = Image.fromarray((grey.clip(0, 1) * 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")
