"""Where the pictures of an index come from, and how they are found again.

A source is a folder, a tar (a shard is one) or a Parquet file. What the user names may also be a picture, a glob, a
brace range of shards, a URL, or a list of URLs; pictures behind URLs are copied into the index, and so are those that
are handed to a running one. Sources of the index's own are relative paths, so that an index can be moved.
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
from ccmb.data.images.source import ImageSource, head_of, inner_name, is_picture_file
from ccmb.data.other_forms import refuse_other_forms
from ccmb.search.indexing.parquet_images import ParquetImages

UPLOADS, DOWNLOADS = "uploads", "downloads"
PARQUET, URL_LISTS = (".parquet", ".pq"), (".txt", ".urls")


@dataclass(frozen=True, slots=True)
class Listed:
    """Pictures of one source that the user named: all of them, or some.

    Attributes:
        source: as in `Entry.source`.
        pictures: the source, open.
        names: of the pictures.
        whole: the source was named itself, so that these are all its pictures.
        unreadable: see `Listing`.
        dropped: names that are passed over although they were listed.
    """

    source: str
    pictures: ImageSource
    names: list[str]
    whole: bool = False
    unreadable: list[str] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)


class Sources:
    """Folders and files of pictures, each opened once and only when a picture of it is asked for.

    Args:
        index: the index folder, which sources of its own are within.
    """

    def __init__(self, index: Path | None = None) -> None:
        self.index = index
        self._opened: dict[str, ImageSource] = {}
        self._turn = threading.Lock()

    def path(self, source: str | Path) -> Path:
        """Absolute path of a source."""
        return (self.index or Path()) / source

    def open(self, source: str | Path) -> ImageSource:
        """
        Raises:
            CcmbError: it is gone or damaged.
        """
        key = str(source)
        with self._turn:
            if key not in self._opened:
                self._opened[key] = open_pictures(self.path(source))
            return self._opened[key]

    def load(self, source: str | Path, name: str) -> Image.Image:
        """Open a picture as RGB.

        Raises:
            CcmbError: the source or the picture is gone or cannot be read.
        """
        return self.open(source).load(name)

    def stamp(self, source: str | Path, name: str) -> str:
        """See `stamp`."""
        return stamp(self.path(source), name)


def open_pictures(path: Path) -> ImageSource:
    """The pictures of a folder, a tar or a Parquet file.

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
) -> tuple[list[Listed], list[str]]:
    """The pictures in folders and files that the user named, and the URLs of the rest.

    Args:
        passed_over: takes note of pictures that nobody means.
        known: sources that an index has.
        away: takes those of them that cannot be read, and why.

    Raises:
        UsageError: a brace range is malformed.
        CcmbError: there is no such folder or file, a glob finds nothing, or what is there is not whole.
    """
    listed: dict[str, Listed] = {}
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
    for of in list(listed.values()):
        if isinstance(of.pictures, ParquetImages) and of.pictures.holds_urls:
            urls += of.pictures.urls()
            del listed[of.source]
    return list(listed.values()), list(dict.fromkeys(urls))


def _source_of(path: Path) -> Path:
    # The last part as it is: the file behind a link, as in the hub's cache, has neither its name nor its ending.
    return Path(os.path.realpath(path)) if os.path.isdir(path) else Path(os.path.realpath(path.parent)) / path.name


def _add(listed: dict[str, Listed], seen: set[tuple[str, str]], path: Path, passed_over: PassedOver) -> None:
    if is_picture_file(path):
        source = str(path.parent)
        found = listed.setdefault(source, Listed(source, open_pictures(path.parent), []))
        if (source, path.name) not in seen:
            seen.add((source, path.name))
            found.names.append(path.name)
        return
    source = str(path)
    pictures = listed[source].pictures if source in listed else open_pictures(path)
    listing = pictures.listing
    if "." in listing.unreadable:
        raise CcmbError(f"{path}: the folder cannot be read")
    if not listing.names and os.path.isdir(path):
        refuse_other_forms(path)
    found = listed.setdefault(source, Listed(source, pictures, []))
    if not found.whole:
        passed_over.update(listing.passed_over)
        found.names.extend(name for name in listing.names if (source, name) not in seen)
        seen.update((source, name) for name in listing.names)
        listed[source] = replace(found, whole=True, unreadable=listing.unreadable)


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
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise CcmbError(f"{text}: nothing is called so")
    found = [path for path in found if not _is_passed_over(path, fixed_part(text), passed_over)]
    # Not meant are files beside the pictures, such as texts, and folders whose pictures "**" finds itself.
    meant = [
        path
        for path in found
        if (os.path.isdir(path) and "**" not in text)
        or path.lower().endswith((*PARQUET, ".tar"))
        or is_picture_file(Path(path))
    ]
    return meant or found


def _is_passed_over(path: str, start: str, passed_over: PassedOver) -> bool:
    """Whether what a glob finds is nobody's, by what comes after `start`, which the user wrote out."""
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
    """URLs of a text file, one a line; blank lines and those that begin with # are passed over.

    Raises:
        CcmbError: it cannot be read, or a line is no URL; the message names it.
    """
    urls = []
    for number, line in enumerate(text_lines(path), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            if not (_is_url(line) or line.startswith("//")):
                raise CcmbError(f"{path}:{number}: not a URL of http or https: {line[:60]!r}")
            urls.append(line)
    return urls


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def stamp(source: Path, name: str) -> str:
    """Size and time of change of a file in a folder, or of the whole file of pictures; empty if there is none."""
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
    """When a file in a folder was changed; None in a file of pictures, whose own time says nothing of theirs."""
    from datetime import datetime

    from ccmb.search.filters import seconds_of

    try:
        return seconds_of(datetime.fromtimestamp(os.stat(source / name).st_mtime)) if source.is_dir() else None
    except (OSError, ValueError, OverflowError):
        return None
