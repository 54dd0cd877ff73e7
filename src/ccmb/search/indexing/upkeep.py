"""Which images of a source are to be indexed, each file once, and which have left the source.

No image leaves an index because its source could not be read. A disk may not be mounted, and then its folder is
missing, empty or unreadable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ccmb.core.passed_over import EXCLUDED, TWICE, Excludes, PassedOver
from ccmb.search.indexing.image_sources import ListedSource, open_images
from ccmb.search.vector_store import Entry, Store

Identity = tuple[object, str]


@dataclass(slots=True)
class LeavingEntries:
    """Keys of a source's images that are in the index but are not to be indexed now.

    Attributes:
        lost: images whose files are gone, although their folders can be read.
        away: images in a folder that is now empty or cannot be read, by that folder.
        unwanted: images whose files exist but are excluded.
    """

    lost: list[str] = field(default_factory=list)
    away: dict[str, list[str]] = field(default_factory=dict)
    unwanted: list[str] = field(default_factory=list)


def leaving_entries(listed: ListedSource, known: Iterable[Entry], excludes: Excludes) -> LeavingEntries:
    """The entries of a source in the index that are not among its listed images."""
    left, names, states = LeavingEntries(), set(listed.names), dict[str, bool]()
    for entry in known:
        if entry.name in names:
            continue
        if folder := next(
            (
                unreadable
                for unreadable in listed.unreadable
                if unreadable == "." or entry.name.startswith(f"{unreadable}/")
            ),
            None,
        ):
            left.away.setdefault(folder, []).append(entry.key)
        elif entry.name in listed.images:
            # An image that a glob did not name is still wanted.
            if listed.complete or entry.name in listed.dropped or excludes.match(entry.name, entry.source):
                left.unwanted.append(entry.key)
        elif folder := _folder_away(listed.images.path, entry.name, states):
            left.away.setdefault(folder, []).append(entry.key)
        else:
            left.lost.append(entry.key)
    return left


def _folder_away(source: Path, name: str, states: dict[str, bool]) -> str:
    """The nearest existing folder of a missing file, if it is empty or cannot be read; else "". "." is the source."""
    if not source.is_dir():
        return ""
    folder = os.path.dirname(name)
    while folder and not os.path.isdir(source / folder):
        folder = os.path.dirname(folder)
    if folder not in states:
        try:
            with os.scandir(source / folder) as entries:
                states[folder] = next(entries, None) is None
        except OSError:
            states[folder] = True
    return (folder or ".") if states[folder] else ""


def with_overlapping(listed: Sequence[ListedSource], sources: Iterable[str], store: Store) -> list[ListedSource]:
    """The listed sources, preceded by sources of the index that overlap with them.

    Two sources overlap if one lies within the other. Each added source lists its images in the shared folders, so
    that these are updated under the names by which the index has them.
    """
    listed_names = {listed_source.source for listed_source in listed}
    folders = [
        (os.path.realpath(listed_source.source), listed_source.complete)
        for listed_source in listed
        if os.path.isdir(listed_source.source)
    ]
    before: list[ListedSource] = []
    for source in sources:
        if source in listed_names or not os.path.isabs(source) or not os.path.isdir(source):
            continue
        real = os.path.realpath(source)
        held_in = any(complete and _is_within(real, folder) for folder, complete in folders)
        shared = [f"{os.path.relpath(folder, real)}/" for folder, _ in folders if _is_within(folder, real)]
        if not held_in and not shared:
            continue
        images = open_images(Path(source))
        names = [
            entry.name
            for entry in store.of_source(source)
            if (held_in or entry.name.startswith(tuple(shared)) or "./" in shared) and entry.name in images
        ]
        before.append(ListedSource(source, images, names))
    return [*before, *listed]


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def each_once(
    listed: Sequence[ListedSource], known: Mapping[str, Iterable[str]], excludes: Excludes, passed_over: PassedOver
) -> list[ListedSource]:
    """The sources with the names to be indexed: no excluded images, and no file twice.

    Several paths may lead to the same file: a folder and its sub-folder, links, a folder that is mounted twice. The
    file keeps the path by which the index has it, else a path without links, else the first.

    Args:
        known: names that the index has, by source.
        passed_over: records the names that are left out.
    """
    best: dict[Identity, tuple[tuple[bool, bool], int, str]] = {}
    identities = _Identities()
    kept_names: list[list[str]] = []
    links: list[tuple[int, str, Identity]] = []
    for index, listed_source in enumerate(listed):
        names = [name for name in listed_source.names if not excludes.match(name, listed_source.source)]
        kept_names.append(names)
        held = set(known.get(listed_source.source, ()))
        if len(names) < len(listed_source.names):
            kept_set = set(names)
            for name in listed_source.names:
                if name not in kept_set:
                    listed_source.dropped.add(name)
                    passed_over.add(f"{listed_source.source}/{name}", EXCLUDED)
        if not os.path.isdir(listed_source.images.path):  # each tar or Parquet file is listed once
            continue
        for name in names:
            path = os.path.join(listed_source.images.path, name)
            if os.path.islink(path):
                links.append((index, name, identities.identity_of(os.path.realpath(path))))
                continue
            identity, rank = identities.identity_of(path), (name not in held, identities.is_linked(path))
            if identity not in best or rank < best[identity][0]:
                best[identity] = rank, index, name
    chosen = {(index, name) for _, index, name in best.values()}
    # A link to a file that has its own place; two links to one file elsewhere are two images.
    chosen |= {(index, name) for index, name, target in links if target not in best}
    result = []
    for index, listed_source in enumerate(listed):
        if os.path.isdir(listed_source.images.path):
            for name in kept_names[index]:
                if (index, name) not in chosen:
                    listed_source.dropped.add(name)
                    passed_over.add(f"{listed_source.source}/{name}", TWICE)
        result.append(
            replace(listed_source, names=[name for name in kept_names[index] if name not in listed_source.dropped])
        )
    return result


class _Identities:
    """The identity of files: their folder (by device and inode), and their name in it."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[object, bool]] = {}

    def identity_of(self, path: str) -> Identity:
        folder, name = os.path.split(path)
        return self._folder(folder)[0], name

    def is_linked(self, path: str) -> bool:
        """Whether the folder is reached through a link."""
        return self._folder(os.path.dirname(path))[1]

    def _folder(self, folder: str) -> tuple[object, bool]:
        if folder not in self._folders:
            try:
                status = os.stat(folder)
                identity: object = (status.st_dev, status.st_ino)
            except OSError:
                identity = folder
            self._folders[folder] = identity, os.path.realpath(folder) != os.path.abspath(folder)
        return self._folders[folder]
