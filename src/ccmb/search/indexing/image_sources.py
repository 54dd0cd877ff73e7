"""The sources of an index's images.

A source is a folder, a tar (such as a shard) or a Parquet file. Users may also name an image, a glob, a brace range of
shards, a URL, or a list of URLs. Images behind URLs, and images that are handed to a running index, are copied into
the index. The index's own sources are relative paths, so that an index can be moved.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import braceexpand
from PIL import Image

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import is_index_folder
from ccmb.core.passed_over import OF_INDEX, PassedOver, fixed_part, why_passed_over
from ccmb.core.text.files import text_lines
from ccmb.data.images.source import ImageSource, head_of, inner_name, is_image_file
from ccmb.data.other_forms import refuse_other_forms
from ccmb.search.indexing.parquet_images import ParquetImages

UPLOADS, DOWNLOADS = "uploads", "downloads"
PARQUET, URL_LISTS = (".parquet", ".pq"), (".txt", ".urls")


@dataclass(frozen=True, slots=True)
class ListedSource:
    """The images of one source that the user named: all or some of them.

    Attributes:
        source: as in `Entry.source`.
        images: the source, open.
        names: of the images.
        complete: whether the source itself was named, so that these are all its images.
        unreadable: see `Listing`.
        dropped: names that are passed over although they were listed.
    """

    source: str
    images: ImageSource
    names: list[str]
    complete: bool = False
    unreadable: list[str] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)


class Sources:
    """Folders and files of images. Each is opened once, when an image of it is first asked for.

    Args:
        index: the index folder, which contains the index's own sources.
    """

    def __init__(self, index: Path | None = None) -> None:
        self.index = index
        self._opened: dict[str, ImageSource] = {}
        self._turn = threading.Lock()

    def path(self, source: str | Path) -> Path:
        """Absolute path of a source."""
        return (self.index or Path()) / source

    def open(self, source: str | Path) -> ImageSource:
        """The images of a source.

        Raises:
            CcmbError: the source is gone or damaged.
        """
        key = str(source)
        with self._turn:
            if key not in self._opened:
                self._opened[key] = open_images(self.path(source))
            return self._opened[key]

    def load(self, source: str | Path, name: str) -> Image.Image:
        """Open an image as RGB.

        Raises:
            CcmbError: the source or the image is gone or cannot be read.
        """
        return self.open(source).load(name)

    def stamp(self, source: str | Path, name: str) -> str:
        """See the function `stamp`."""
        return stamp(self.path(source), name)


def open_images(path: Path) -> ImageSource:
    """The images of a folder, a tar or a Parquet file.

    Raises:
        CcmbError: there is no such folder or file, or it is damaged.
    """
    if path.is_file() and (path.suffix.lower() in PARQUET or head_of(path).startswith(b"PAR1")):
        return ParquetImages(path)
    return ImageSource.open(path)


def find_sources(
    named: Sequence[str | Path],
    passed_over: PassedOver,
    known: Collection[str] = (),
    away: dict[str, str] | None = None,
) -> tuple[list[ListedSource], list[str]]:
    """The images in folders and files that the user named, and the named URLs.

    Args:
        passed_over: records images that nobody means.
        known: the sources of the index.
        away: records known sources that cannot be read, each with the reason.

    Raises:
        UsageError: a brace range is malformed.
        CcmbError: there is no such folder or file, a glob finds nothing, or what is there is not whole.
    """
    listed: dict[str, ListedSource] = {}
    seen: set[tuple[str, str]] = set()
    away = {} if away is None else away
    urls: list[str] = []
    for text in map(str, named):
        for part in _braces(text):
            for path in _expand(part, passed_over):
                if _is_url(path):
                    urls.append(path)
                elif Path(path).suffix.lower() in URL_LISTS and Path(path).is_file():
                    urls += read_urls(Path(path))
                else:
                    source = _source_of(Path(path))
                    try:
                        _add(listed, seen, source, passed_over)
                    except CcmbError as error:
                        if str(source) not in known:
                            raise
                        away[str(source)] = str(error).removeprefix(f"{source}: ")
    for listed_source in list(listed.values()):
        if isinstance(listed_source.images, ParquetImages) and listed_source.images.holds_urls:
            urls += listed_source.images.urls()
            del listed[listed_source.source]
    return list(listed.values()), list(dict.fromkeys(urls))


def _source_of(path: Path) -> Path:
    # The last part stays a link: the file behind it, as in the hub's cache, has another name and ending.
    return Path(os.path.realpath(path)) if os.path.isdir(path) else Path(os.path.realpath(path.parent)) / path.name


def _add(listed: dict[str, ListedSource], seen: set[tuple[str, str]], path: Path, passed_over: PassedOver) -> None:
    if is_image_file(path):
        source = str(path.parent)
        listed_source = listed.setdefault(source, ListedSource(source, open_images(path.parent), []))
        if (source, path.name) not in seen:
            seen.add((source, path.name))
            listed_source.names.append(path.name)
        return
    source = str(path)
    images = listed[source].images if source in listed else open_images(path)
    listing = images.listing
    if "." in listing.unreadable:
        raise CcmbError(f"{path}: the folder cannot be read")
    if not listing.names and os.path.isdir(path):
        refuse_other_forms(path)
    listed_source = listed.setdefault(source, ListedSource(source, images, []))
    if not listed_source.complete:
        passed_over.update(listing.passed_over)
        listed_source.names.extend(name for name in listing.names if (source, name) not in seen)
        seen.update((source, name) for name in listing.names)
        listed[source] = replace(listed_source, complete=True, unreadable=listing.unreadable)


def _braces(text: str) -> list[str]:
    if _is_url(text) or "{" not in text or os.path.exists(text):
        return [text]
    try:
        return list(braceexpand.braceexpand(text))
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from None


def _expand(text: str, passed_over: PassedOver) -> list[str]:
    if _is_url(text) or os.path.exists(text) or not glob.has_magic(text):
        return [text]
    paths = sorted(glob.glob(text, recursive=True))
    if not paths:
        raise CcmbError(f"{text}: nothing is called so")
    paths = [path for path in paths if not _is_passed_over(path, fixed_part(text), passed_over)]
    # Not meant are files beside the images, such as texts, and folders whose images "**" finds anyway.
    of_images = [
        path
        for path in paths
        if (os.path.isdir(path) and "**" not in text)
        or path.lower().endswith((*PARQUET, ".tar"))
        or is_image_file(Path(path))
    ]
    return of_images or paths


def _is_passed_over(path: str, start: str, passed_over: PassedOver) -> bool:
    """Whether a path that a glob found is to be left out. Only the part after `start` decides: the user wrote that."""
    inside = os.path.relpath(path, start or ".")
    reason = why_passed_over(inside) if inside != "." else None
    folder = os.path.dirname(inside)
    while folder and reason is None:
        reason = OF_INDEX if is_index_folder(os.path.join(start, folder)) else None
        folder = os.path.dirname(folder)
    if reason:
        passed_over.add(path, reason)
    return reason is not None


def read_urls(path: Path) -> list[str]:
    """The URLs of a text file, one a line; blank lines and lines that begin with # are skipped.

    Raises:
        CcmbError: the file cannot be read, or a line is not a URL; the message names it.
    """
    urls = []
    for line_number, line in enumerate(text_lines(path), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            if not (_is_url(line) or line.startswith("//")):
                raise CcmbError(f"{path}:{line_number}: not a URL of http or https: {line[:60]!r}")
            urls.append(line)
    return urls


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def stamp(source: Path, name: str) -> str:
    """Size and time of change of a file in a folder, or of a whole tar or Parquet file; "" if there is none."""
    try:
        if not source.is_dir():
            status = os.stat(source)
        elif (inner := inner_name(name)) is None:
            return ""
        else:
            status = os.stat(source / inner)
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def changed_seconds(source: Path, name: str) -> int | None:
    """When a file in a folder was changed, in seconds; None for images in a tar or Parquet file."""
    from datetime import datetime

    from ccmb.search.filters import seconds_of

    try:
        return seconds_of(datetime.fromtimestamp(os.stat(source / name).st_mtime)) if source.is_dir() else None
    except (OSError, ValueError, OverflowError):
        return None
