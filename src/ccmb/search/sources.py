"""Where the pictures of an index come from, and how they are found again.

A source is a folder, a tar (a shard is one) or a Parquet file. What the user names may also be a picture, a glob, a
brace range of shards, a URL, or a list of URLs; pictures behind URLs are copied into the index, and so are those that
are handed to a running one. Sources of the index's own are relative paths, so that an index can be moved.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import braceexpand
from PIL import Image

from ccmb.data.other_forms import refuse_other_forms
from ccmb.data.pictures import Pictures, head_of, inner_name, is_picture_file
from ccmb.errors import CcmbError, UsageError
from ccmb.search.parquet_pictures import ParquetPictures
from ccmb.text_files import text_lines

UPLOADS, DOWNLOADS = "uploads", "downloads"
PARQUET, URL_LISTS = (".parquet", ".pq"), (".txt", ".urls")


@dataclass(frozen=True, slots=True)
class Listed:
    """Pictures of one source that the user named: all of them, or some.

    Attributes:
        source: as in `Entry.source`.
        pictures: the source, open.
        names: of the pictures.
    """

    source: str
    pictures: Pictures
    names: list[str]


class Sources:
    """Folders and files of pictures, each opened once and only when a picture of it is asked for.

    Args:
        index: the index folder, which sources of its own are within.
    """

    def __init__(self, index: Path | None = None) -> None:
        self.index = index
        self._opened: dict[str, Pictures] = {}
        self._turn = threading.Lock()

    def path(self, source: str | Path) -> Path:
        """Absolute path of a source."""
        return (self.index or Path()) / source

    def open(self, source: str | Path) -> Pictures:
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


def open_pictures(path: Path) -> Pictures:
    """The pictures of a folder, a tar or a Parquet file.

    Raises:
        CcmbError: there is no such folder or file, or it is damaged.
    """
    if path.is_file() and (path.suffix.lower() in PARQUET or head_of(path).startswith(b"PAR1")):
        return ParquetPictures(path)
    return Pictures.open(path)


def find_sources(named: Sequence[str | Path]) -> tuple[list[Listed], list[str]]:
    """The pictures in folders and files that the user named, and the URLs of the rest.

    Raises:
        UsageError: a brace range is malformed.
        CcmbError: there is no such folder or file, a glob finds nothing, or what is there is not whole.
    """
    listed: dict[str, Listed] = {}
    urls: list[str] = []
    for text in map(str, named):
        for part in _braces(text):
            for path in _expand(part):
                if _is_url(path):
                    urls.append(path)
                elif Path(path).suffix.lower() in URL_LISTS and Path(path).is_file():
                    urls += read_urls(Path(path))
                else:
                    _add(listed, Path(path))
    for of in list(listed.values()):
        if isinstance(of.pictures, ParquetPictures) and of.pictures.holds_urls:
            urls += of.pictures.urls()
            del listed[of.source]
    return list(listed.values()), list(dict.fromkeys(urls))


def _add(listed: dict[str, Listed], path: Path) -> None:
    # The last part as it is: the file behind a link, as in the hub's cache, has neither its name nor its ending.
    path = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if is_picture_file(path):
        source = str(path.parent)
        found = listed.setdefault(source, Listed(source, open_pictures(path.parent), []))
        names = [path.name]
    else:
        source = str(path)
        pictures = listed[source].pictures if source in listed else open_pictures(path)
        found = listed.setdefault(source, Listed(source, pictures, []))
        names = pictures.names
        if not names and path.is_dir():
            refuse_other_forms(path)
    seen = set(found.names)
    found.names.extend(name for name in names if name not in seen)


def _braces(text: str) -> list[str]:
    if _is_url(text) or "{" not in text or os.path.exists(text):
        return [text]
    try:
        return list(braceexpand.braceexpand(text))
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from None


def _expand(text: str) -> list[str]:
    if _is_url(text) or os.path.exists(text) or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise CcmbError(f"{text}: nothing is called so")
    # Not meant are files beside the pictures, such as texts, and folders whose pictures "**" finds itself.
    meant = [
        path
        for path in found
        if (os.path.isdir(path) and "**" not in text)
        or path.lower().endswith((*PARQUET, ".tar"))
        or is_picture_file(Path(path))
    ]
    return meant or found


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

    from ccmb.search.conditions import seconds_of

    try:
        return seconds_of(datetime.fromtimestamp(os.stat(source / name).st_mtime)) if source.is_dir() else None
    except (OSError, ValueError, OverflowError):
        return None
