"""Sets to measure on: own pairs by their file, published sets by their name and folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccmb.data.downstream import Dataset, open_dataset
from ccmb.data.downstream.dataset import samples_of_queries
from ccmb.data.pairs import read_pairs
from ccmb.data.pictures import Pictures, UnreadablePicture
from ccmb.errors import CcmbError, UsageError
from ccmb.progress import progress
from ccmb.samples import Sample

NAME = re.compile(r"[\w.-]+")
Queries = list[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """One split of a set for retrieval.

    Attributes:
        name, split: how results are filed.
        samples: pictures of the gallery with their texts.
        queries: texts, each with the names of all pictures that fit it, where texts have several of these or pictures
            have none; the samples then have no texts. None where each text has its sample's picture.
        pictures: where the pictures lie.
        revision: hexadecimal SHA-256 of all names, texts and bytes of pictures, in their order.
    """

    name: str
    split: str
    samples: list[Sample]
    queries: Queries | None
    pictures: Pictures
    revision: str


def open_set(
    spec: str, split: str = "test", fields: Sequence[str] = ("texts",), images: Path | None = None
) -> RetrievalSet:
    """Open `NAME=pairs.jsonl`, or `NAME=FOLDER` for a published set of that name.

    Args:
        spec: without `NAME=` the set is called as the folder of its file.
        fields: text fields of own pairs.
        images: folder or tar of the pictures of own pairs; by default `images.tar` or `images` beside the file.

    Raises:
        UsageError: the name cannot be one, or no published set has it.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    name, path = _name_and_path(spec)
    if path.is_dir():
        found = open_dataset(name, path, split, images)
        samples, queries, pictures = *_published(found, path), found.pictures
    else:
        samples, queries = read_pairs(path, split, fields), None
        pictures = Pictures.open(images or _pictures_beside(path))
    return RetrievalSet(name, split, samples, queries, pictures, _revision(samples, queries, pictures))


def _name_and_path(spec: str) -> tuple[str, Path]:
    name, equals, path = spec.partition("=")
    if not equals or Path(spec).exists():
        name, path = Path(spec).resolve().parent.name, spec
    if not NAME.fullmatch(name) or name.startswith(".") or not path:
        raise UsageError(f"--data {spec}: give NAME=PAIRS.jsonl, with a name of letters, digits, '.', '-' and '_'")
    return name, Path(path)


def _published(found: Dataset, folder: Path) -> tuple[list[Sample], Queries | None]:
    """The pictures with their texts, or apart from them where they do not belong one to one."""
    if "retrieval" not in found.card.families:
        raise UsageError(f"{folder}: {found.card.title} is no set for retrieval, which is what is measured so far")
    queries = [(query.text, query.images) for query in found.queries if query.images]
    if not queries:
        raise CcmbError(f"{folder}: the files of {found.card.title} do not say which pictures are right in this split")
    single = all(len(images) == 1 for _, images in queries)
    if single and set(found.gallery) == {images[0] for _, images in queries}:
        # Not the samples as read: those of Flickr8k-CN have translations among their texts.
        return samples_of_queries(found.queries, found.split), None
    return [Sample(name, (), found.split) for name in found.gallery], queries


def _pictures_beside(pairs: Path) -> Path:
    found = [path for path in (pairs.parent / "images.tar", pairs.parent / "images") if path.exists()]
    if pairs.exists() and not found:
        raise CcmbError(f"{pairs.parent / 'images.tar'}: no such tar; say with --images where the pictures are")
    return found[0] if found else pairs.parent / "images.tar"


def _revision(samples: Sequence[Sample], queries: Queries | None, pictures: Pictures) -> str:
    digest = hashlib.sha256(json.dumps(queries).encode() if queries else b"")
    with progress("read pictures", len(samples), "pictures") as advance:
        for sample in samples:
            try:
                data = pictures.raw(sample.image)
            except UnreadablePicture:
                data = b""
            for part in (sample.image.encode(), hashlib.sha256(data).digest(), *map(str.encode, sample.texts)):
                digest.update(len(part).to_bytes(8, "big") + part)
            digest.update(b"\n")
            advance(1, "")
    return digest.hexdigest()
