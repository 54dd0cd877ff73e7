"""The files of logs, pages, links and test texts: each file once, without hidden and system files."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import file_identity, walk_files
from ccmb.core.logs import BARE
from ccmb.core.passed_over import EXCLUDED, TWICE, Excludes, PassedOver, fixed_part, why_passed_over
from ccmb.data.shards.remote import file_system_of, is_remote

_LOG = logging.getLogger(__name__)

SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt")
_UNREAD = frozenset((
    ".zst", ".xz", ".bz2", ".lz4", ".zip", ".7z", ".rar", ".tgz", ".tar", ".pq", ".parq", ".orc", ".avro", ".arrow",
    ".feather", ".xls", ".xlsx", ".log",
))  # fmt: skip
_COMPARED = 2**20  # bytes at the beginning and at the end that are compared to find duplicate files


def files_of(
    sources: Sequence[str], passed_over: PassedOver, excludes: Excludes | None = None, any_suffix: bool = False
) -> list[str]:
    """All files of some sources, see `find_files`. A file that several paths lead to is listed once.

    Files that look like duplicates of one another are reported on stderr, and read all the same.

    Raises:
        CcmbError: a source has no file, or all its files are passed over.
    """
    files: list[str] = []
    seen: set[object] = set()
    for source in sources:
        for path in find_files(source, any_suffix, passed_over):
            identity = file_identity(path)
            if excludes is not None and excludes.match(*_within(path, source)):
                passed_over.add(path, EXCLUDED)
            elif identity in seen:
                passed_over.add(path, TWICE)
            else:
                files.append(path)
            seen.add(identity)
    if not files:
        raise CcmbError(f"{', '.join(sources)}: no file is left; {passed_over}")
    _warn_of_duplicates(files)
    return files


def find_files(source: str, any_suffix: bool = False, passed_over: PassedOver | None = None) -> list[str]:
    """The files of a path, folder, glob or URL, in order of their names.

    Args:
        any_suffix: whether a file that is named itself may have any suffix.
        passed_over: collects the hidden files and system files of folders and globs.

    Raises:
        CcmbError: there is no file, or a folder cannot be read.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    if any_suffix and os.path.exists(source) and not os.path.isdir(source):
        return [source]
    if is_remote(source):
        system, path = file_system_of(source)
        if not _has_magic(path):
            return _of_known_kinds([source])
        paths = _meant(system.glob(path), fixed_part(path), passed_over)
        paths = sorted(map(system.unstrip_protocol, paths))
    elif os.path.isdir(source):
        inside = [name for name in walk_files(source, passed_over) if suffix_of(name) in SUFFIXES]
        paths = sorted(str(Path(source, name)) for name in _meant(inside, "", passed_over))
        _warn_of_unread(source)
    elif os.path.lexists(source):  # even a hidden file, because it was named
        paths = [source]
    else:
        paths = sorted(_meant(glob.glob(source, recursive=True), fixed_part(source), passed_over))
    if not paths:
        note = f"; {passed_over}" if passed_over else ""
        raise CcmbError(
            f"{source}: no such file; known suffixes: {', '.join(SUFFIXES)}; .gz too, but for Parquet{note}"
        )
    return _of_known_kinds(paths)


def _has_magic(path: str) -> bool:
    """Whether the path of a remote file is a glob; a question mark of HTTP begins a query."""
    return any(sign in path for sign in ("*[" if path.startswith(("http://", "https://")) else "*?["))


def _of_known_kinds(paths: list[str]) -> list[str]:
    if unknown := next((path for path in paths if suffix_of(path) not in SUFFIXES), None):
        raise CcmbError(f"{unknown}: not one of the kinds of files that are read: {', '.join(SUFFIXES)}")
    return paths


def _meant(paths: Iterable[str], start: str, passed_over: PassedOver) -> list[str]:
    """The paths without hidden and system files; only what comes after `start` is checked."""
    meant = []
    for path in paths:
        inside = path.removeprefix(start).lstrip("/")
        if reason := why_passed_over(inside):
            passed_over.add(path, reason)
        else:
            meant.append(path)
    return meant


def _within(path: str, source: str) -> tuple[str, str]:
    """A file's name within the source, and the source's whole path."""
    if is_remote(source):
        start = fixed_part(source) if _has_magic(source) else source
        return path.removeprefix(start).lstrip("/") or path.rpartition("/")[2], start
    start = source if os.path.isdir(source) else fixed_part(source)
    return os.path.relpath(path, start or "."), os.path.abspath(start)


def _warn_of_duplicates(files: Sequence[str]) -> None:
    """Report duplicate files, whose clicks count twice.

    Two files look like duplicates if their size, beginning and end are equal, or if one is the other with .gz.
    """
    sizes: dict[int, list[str]] = {}
    for path in files:
        if os.path.isfile(path):
            sizes.setdefault(os.path.getsize(path), []).append(path)
    known = set(files)
    duplicates = [(path.removesuffix(".gz"), path) for path in files if path.endswith(".gz") and path[:-3] in known]
    for size, paths in sizes.items():
        first: dict[tuple[bytes, bytes], str] = {}
        for path in paths if size and len(paths) > 1 else ():
            if (other := first.setdefault(_ends(path, size), path)) != path:
                duplicates.append((other, path))
    for one, other in duplicates[:3]:
        _LOG.warning("%s and %s look like duplicates; both are counted", one, other, extra=BARE)
    if len(duplicates) > 3:
        _LOG.warning(f"... and so do {len(duplicates) - 3:,} more pairs", extra=BARE)


def _ends(path: str, size: int) -> tuple[bytes, bytes]:
    try:
        with open(path, "rb") as file:
            first = file.read(_COMPARED)
            file.seek(max(0, size - _COMPARED))
            return first, file.read()
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None


def _warn_of_unread(folder: str) -> None:
    """Report data files in a folder that are of a kind that is not read: their owner may think they are."""
    unread = sorted(path.name for path in Path(folder).rglob("*") if path.suffix.lower() in _UNREAD)
    if unread:
        names = ", ".join(unread[:3]) + (", ..." if unread[3:] else "")
        _LOG.warning(f"{folder}: {len(unread):,} files are of kinds that are not read: {names}", extra=BARE)


def suffix_of(path: str) -> str:
    """The suffix of a file in small letters, without .gz and without the query of a URL: ".jsonl" for A.JSONL.gz."""
    if is_remote(path):
        path = path.partition("?")[0]
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]
