"""Shards as a data set with random access, for fine-tuning and measuring.

All texts are read at the start, each image when it is asked for.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.data.grouping import image_key, merge_by_image
from ccmb.data.images.source import Extent, ImageSource
from ccmb.data.plain_tars import plain_tar
from ccmb.data.sample import Sample
from ccmb.data.shards.locate import ENDINGS, MANIFEST, find_shards
from ccmb.data.shards.read import parse_sample, read_texts
from ccmb.data.shards.remote import is_remote

_LOOKED_AT = 64  # members of a tar, to see what it is


class ShardImages(ImageSource):
    """The images of some shards, by the names in their samples."""

    def __init__(self, path: Path, extents: dict[str, Extent]) -> None:
        super().__init__(path)
        self._extents = extents

    @cached_property
    def names(self) -> list[str]:
        return sorted(self._extents)

    def _find(self, name: str) -> Extent | None:
        return self._extents.get(name)

    def __contains__(self, name: str) -> bool:
        return image_key(name) in self._extents

    def raw(self, name: str) -> bytes:
        """See `ImageSource.raw`. Names in shards may be whole paths; here they are only keys."""
        return self._read(name, self._extents.get(image_key(name)))


def is_shards(path: Path) -> bool:
    """Whether a path that the user names is a shard, or a folder with a manifest of shards or with tars."""
    if path.is_dir():
        tars = (file for file in path.iterdir() if file.name.endswith(ENDINGS) and file.stem != "images")
        return (path / MANIFEST).is_file() or any(tars)
    return path.is_file() and path.name.endswith(ENDINGS) and _pairs_texts(path)


def _pairs_texts(path: Path) -> bool:
    """Whether a tar's first members are images with texts of the same key, not images alone.

    True also for a tar that is empty or cannot be read: the reader of shards then names the problem.
    """
    texts, others = set[str](), set[str]()
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in islice(tar, _LOOKED_AT):
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                if member.isfile():
                    (texts if ending.lower() in ("json", "txt") else others).add(f"{folder}/{key}")
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return True
    return not (texts or others) or bool(texts & others)


def open_shard_set(sources: Sequence[str], fields: Sequence[str] | None) -> tuple[list[Sample], ImageSource, list[str]]:
    """The samples of some shards, their images, and a line for each sample that cannot be used.

    Args:
        sources: see `find_shards`; local ones.
        fields: text fields; None for all.

    Raises:
        CcmbError: there are no such shards, they lie on a server or are damaged, or no sample can be used.
    """
    shards = find_shards(sources)
    if remote := next((shard.url for shard in shards if is_remote(shard.url)), None):
        raise CcmbError(f"{remote}: images are drawn in any order here; copy the shards to this machine first")
    samples, extents, problems = list[Sample](), dict[str, Extent](), list[str]()
    with progress("read texts", len(shards), "shards") as advance:
        for shard in shards:
            plain = plain_tar(Path(shard.url))
            for raw in read_texts(str(plain), shard.url):
                try:
                    sample = parse_sample(raw, fields)
                    assert raw.extent is not None, "a sample without an image is refused"
                    extent = Extent(str(plain), *raw.extent)
                    if extents.setdefault(image_key(sample.image), extent) != extent:
                        raise CcmbError(f"{raw.url}/{raw.key}: another sample has the name {sample.image}")
                    samples.append(sample)
                except CcmbError as error:
                    problems.append(str(error))
            advance(1)
    if not samples:
        raise CcmbError(problems[0] if problems else f"{shards[0].url}: no samples")
    return merge_by_image(samples), ShardImages(Path(sources[0]), extents), problems
