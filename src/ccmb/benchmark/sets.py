"""Sets to measure on: own pairs by their file, published sets by their name and folder."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.data.pairs import read_pairs
from ccmb.data.pictures import Pictures, UnreadablePicture
from ccmb.errors import CcmbError, UsageError
from ccmb.progress import progress
from ccmb.samples import Sample

NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """One split of a set for retrieval.

    Attributes:
        name, split: how results are filed.
        samples: pictures with their texts.
        pictures: where the pictures lie.
        revision: hexadecimal SHA-256 of all names, texts and bytes of pictures, in their order.
    """

    name: str
    split: str
    samples: list[Sample]
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
        samples, pictures = _published(name, path, split)
    else:
        samples, pictures = read_pairs(path, split, fields), Pictures.open(images or _pictures_beside(path))
    return RetrievalSet(name, split, samples, pictures, _revision(samples, pictures))


def _name_and_path(spec: str) -> tuple[str, Path]:
    name, equals, path = spec.partition("=")
    if not equals or Path(spec).exists():
        name, path = Path(spec).resolve().parent.name, spec
    if not NAME.fullmatch(name) or name.startswith(".") or not path:
        raise UsageError(f"--data {spec}: give NAME=PAIRS.jsonl, with a name of letters, digits, '.', '-' and '_'")
    return name, Path(path)


def _published(name: str, folder: Path, split: str) -> tuple[list[Sample], Pictures]:
    """The one place where readers of published sets plug in."""
    try:
        downstream: Any = importlib.import_module("ccmb.data.downstream")
    except ModuleNotFoundError:
        raise UsageError(f"--data {name}={folder}: a folder; give the pairs.jsonl in it") from None
    found = downstream.open_dataset(name, folder, split)
    return list(found.samples), found.pictures


def _pictures_beside(pairs: Path) -> Path:
    found = [path for path in (pairs.parent / "images.tar", pairs.parent / "images") if path.exists()]
    if pairs.exists() and not found:
        raise CcmbError(f"{pairs.parent / 'images.tar'}: no such tar; say with --images where the pictures are")
    return found[0] if found else pairs.parent / "images.tar"


def _revision(samples: Sequence[Sample], pictures: Pictures) -> str:
    digest = hashlib.sha256()
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
