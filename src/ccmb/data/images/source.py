"""Images by name, from a folder or a tar, as upright sRGB.

Nothing stays open between reads, so one `ImageSource` may be pickled, forked and shared by threads.
"""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.core.files import walk_files
from ccmb.core.passed_over import PassedOver, why_passed_over
from ccmb.data.images.content import HEAD_BYTES, image_format, is_image_name, may_be_image
from ccmb.data.images.decoding import MAX_PIXELS, decode, rgb_of
from ccmb.data.plain_tars import plain_tar
from ccmb.data.tar_index import inner_name, read_index

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "Extent",
    "FolderImages",
    "ImageSource",
    "TarImages",
    "UnreadableImageError",
    "decode",
    "head_of",
    "image_of",
    "inner_name",
    "is_image_file",
    "load_image",
]  # fmt: skip

MAX_BYTES = 64 * 2**20


class UnreadableImageError(CcmbError):
    """One image cannot be used; the message is one line that names it and says why."""


class Extent(NamedTuple):
    """Where the bytes of an image lie."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is in a folder or tar of images.

    Attributes:
        names: see `ImageSource.names`.
        passed_over: images and whole folders that nobody means, such as hidden ones.
        unreadable: names of folders in it that cannot be read; "." is the folder itself.
    """

    names: list[str]
    passed_over: PassedOver = field(default_factory=PassedOver)
    unreadable: list[str] = field(default_factory=list)


class ImageSource(ABC):
    """Images by name. A name is a relative path with forward slashes; one that leads outside is refused.

    Attributes:
        repeated: how many files are hidden by another file of the same name.
    """

    repeated = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def open(path: str | Path) -> ImageSource:
        """The images of a folder (with its sub-folders) or of a tar, plain or gzipped.

        Raises:
            CcmbError: there is no such folder or file, or it is not a whole tar.
        """
        path = Path(path)
        if os.path.isdir(path):  # Path.is_dir raises where the path may not be looked at; this does not
            return FolderImages(path)
        if os.path.isfile(path):
            return TarImages(path)
        raise CcmbError(f"{path}: {_why_not_there(path) or 'no such folder or tar of images'}")

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the images, sorted; hidden files and a system's own are left out, see `ccmb.core.passed_over`.

        A file counts as an image by its ending; a file of an unknown ending or none, by its first bytes.

        Raises:
            CcmbError: a folder cannot be read; the message names it.
        """

    @property
    def listing(self) -> Listing:
        """The names, with what was passed over and what could not be read."""
        return Listing(self.names)

    @abstractmethod
    def _find(self, name: str) -> Extent | None:
        """Where the regular file of a checked name lies, or None."""

    def __contains__(self, name: str) -> bool:
        """Whether there is a file of this name; it may yet be damaged."""
        inner = inner_name(name)
        return inner is not None and self._find_any_form(inner) is not None

    def _find_any_form(self, name: str) -> Extent | None:
        """The file of a name in any Unicode form: systems write the same letter in one or two characters.

        The name as it stands is tried first.
        """
        forms = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
        return next((extent for form in forms if (extent := self._find(form)) is not None), None)

    def raw(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            UnreadableImageError: it is not there, lies outside, is empty, cut short, or larger than MAX_BYTES.
        """
        inner = inner_name(name)
        if inner is None:
            raise self._unreadable(name, "not a name inside the folder or tar")
        try:
            extent = self._find_any_form(inner)
        except OSError as error:
            raise self._unreadable(name, error.strerror or str(error)) from None
        return self._read(name, extent, self._why_missing(inner) if extent is None else "")

    def _read(self, name: str, extent: Extent | None, why_missing: str = "no such image") -> bytes:
        """The bytes of the image at an extent."""
        if extent is None:
            raise self._unreadable(name, why_missing)
        try:
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
        """The image as RGB, see `decode`.

        Raises:
            UnreadableImageError: see `raw` and `decode`.
        """
        return self.decoded(name, self.raw(name))

    def decoded(self, name: str, data: bytes) -> Image.Image:
        """The image of a file's bytes, as `load` gives it.

        Raises:
            UnreadableImageError: see `decode`.
        """
        try:
            return decode(data)
        except ValueError as error:
            raise self._unreadable(name, str(error)) from None

    def _why_missing(self, name: str) -> str:
        return "no such image"

    def _unreadable(self, name: str, reason: str) -> UnreadableImageError:
        line = " ".join(f"{self.path}/{name}: {reason}".split())
        return UnreadableImageError(line.encode("utf-8", "replace").decode())


class FolderImages(ImageSource):
    """Images in a folder.

    Symbolic links in the folder are the user's own and may lead anywhere, as those of the hub's cache, DVC and
    git-annex do. Names may not lead outside, see `inner_name`.
    """

    @property
    def names(self) -> list[str]:
        if unreadable := self.listing.unreadable:
            raise CcmbError(f"{self.path / unreadable[0]}: the folder cannot be read")
        return self.listing.names

    @cached_property
    def listing(self) -> Listing:
        passed_over, unreadable = PassedOver(), list[str]()
        files = walk_files(self.path, passed_over, unreadable)
        names = sorted(name for name in files if _is_image(name, self._head, passed_over))
        return Listing(names, passed_over, unreadable)

    def _head(self, name: str) -> bytes:
        return head_of(self.path / name)

    def _find(self, name: str) -> Extent | None:
        path = os.path.join(self.path, name)
        return Extent(path, 0, os.path.getsize(path)) if os.path.isfile(path) else None

    def _why_missing(self, name: str) -> str:
        return _broken_link(self.path / name) or super()._why_missing(name)


class TarImages(ImageSource):
    """Images in a tar. Its headers are read once; a gzipped tar is decompressed into a temporary file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._plain = plain_tar(path)
        self._members, self.repeated = read_index(self._plain, path)

    @property
    def names(self) -> list[str]:
        return self.listing.names

    @cached_property
    def listing(self) -> Listing:
        passed_over = PassedOver()
        with open(self._plain, "rb") as file:
            names = [
                name for name in self._members if _is_image(name, lambda name: self._head(file, name), passed_over)
            ]
        return Listing(sorted(names), passed_over)

    def _head(self, file: IO[bytes], name: str) -> bytes:
        offset, size = self._members[name]
        file.seek(offset)
        return file.read(min(size, HEAD_BYTES))

    def _find(self, name: str) -> Extent | None:
        entry = self._members.get(name)
        return Extent(str(self._plain), *entry) if entry else None


def load_image(path: str | Path) -> Image.Image:
    """The image at a path that the user gives, as RGB, see `decode`.

    Raises:
        UnreadableImageError: it is missing or cannot be used; the message names it.
    """
    path = Path(path)
    if path.is_dir():
        raise UnreadableImageError(f"{path}: a folder; name an image in it")
    # The path may be a link to anywhere, since the user gives it: the last part is a name in the folder before it.
    try:
        return FolderImages(path.parent).load(path.name)
    except UnreadableImageError as error:
        raise UnreadableImageError(str(error).replace(f"{path.parent}/{path.name}", str(path), 1)) from None


def image_of(image: str | Path | bytes | Image.Image) -> Image.Image:
    """An image given as a path, as the bytes of a file or as a PIL object; all three give the same RGB.

    Raises:
        UnreadableImageError: it is missing or cannot be used; the message says why.
    """
    if isinstance(image, str | Path):
        return load_image(image)
    try:
        return decode(image) if isinstance(image, bytes) else rgb_of(image)
    except Exception as error:  # decoders raise nearly anything on damaged data
        what = "the bytes of an image" if isinstance(image, bytes) else f"a PIL object of mode {image.mode}"
        raise UnreadableImageError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from None


def is_image_file(path: Path) -> bool:
    """Whether a file that the user names is an image, by its name or its first bytes; links are followed."""
    if not os.path.isfile(path):
        return False
    return _is_image(path.name.lstrip("."), lambda _: head_of(path))


def head_of(path: Path) -> bytes:
    """The first bytes of a file; b"" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _why_not_there(path: Path) -> str:
    """The system's reason why a path cannot be opened; "" where it does not exist."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return ""


def _broken_link(path: Path) -> str:
    """The target of a broken symbolic link and how to get it, for a message; "" where the path is no link."""
    if not path.is_symlink():
        return ""
    target = os.readlink(path)
    get = "git annex get it" if ".git/annex" in target else "dvc pull" if "dvc" in target else "fetch that first"
    return f"a link to {target}, which is not there; {get}"


def _is_image(name: str, head: Callable[[str], bytes], passed_over: PassedOver | None = None) -> bool:
    """Whether a file counts as an image, by its name or by the first bytes that `head` gives."""
    if reason := why_passed_over(name):
        if passed_over is not None and is_image_name(name):
            passed_over.add(name, reason)
        return False
    return is_image_name(name) or (may_be_image(name) and image_format(head(name)) is not None)
