"""An open data set: its card, samples, queries and pictures, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ccmb.core.errors import CcmbError
from ccmb.data.grouping import image_key
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.datasets.cards import Card
from ccmb.datasets.formats.by_basename import NamedImages
from ccmb.datasets.problems import NO_PICTURE, REPEATED_ID, TWO_PICTURES, Problems


@dataclass(frozen=True, slots=True)
class DatasetQuery:
    """One text and the pictures it fits.

    Attributes:
        id: unique within the split.
        images: names of the pictures; empty if the files do not name any.
        where: file and line, for messages.
    """

    id: str
    text: str
    images: tuple[str, ...]
    where: str = field(default="", compare=False)


@dataclass(slots=True)
class Dataset:
    """One split of a data set.

    Attributes:
        samples: for matching, one sample for each labelled pair, with `extra["label"]` 1 or 0. For classification, one
            for each picture, with the names of its class as texts and the index of the class as `extra["label"]`. For
            all other families, one for each picture that has texts.
        queries: each text with the pictures it fits; empty for matching and classification.
        pictures: the pictures by name.
        gallery: names of the pictures to search among.
        skipped: what was left out, counted and with examples.
        fields: names of the samples' fields.
        classes: for classification, the names of each class.
        templates: for classification, sentences in which {} stands for a class name.
    """

    card: Card
    split: str
    samples: list[Sample]
    pictures: ImageSource
    gallery: list[str]
    skipped: Problems
    queries: list[DatasetQuery] = field(default_factory=list)
    fields: tuple[str, ...] = ("texts",)
    classes: list[tuple[str, ...]] = field(default_factory=list)
    templates: tuple[str, ...] = ()


def by_name(written: str, where: str, pictures: ImageSource, problems: Problems) -> str | None:
    """The name of the picture that a file refers to; None if it is missing, which is counted."""
    if isinstance(pictures, NamedImages):
        name = pictures.resolve(written)
        if name in pictures.ambiguous:
            problems.add(TWO_PICTURES, f"{where}: {pictures.path} has several pictures {name}")
    else:
        name = image_key(written) if written in pictures else None
    if name is None:
        problems.add(NO_PICTURE, f"{where}: no picture {written} in {pictures.path}")
    return name


def present_queries(queries: Iterable[DatasetQuery], pictures: ImageSource, problems: Problems) -> list[DatasetQuery]:
    """The queries without missing pictures.

    If all pictures of a query are missing, it is left out. Of queries with equal ids the first one is kept.

    Raises:
        CcmbError: no query is left.
    """
    kept: dict[str, DatasetQuery] = {}
    for query in queries:
        if query.id in kept:
            problems.add(REPEATED_ID, f"{query.where}: id {query.id} occurs twice")
            continue
        named = (by_name(image, query.where, pictures, problems) for image in query.images)
        images = tuple(dict.fromkeys(name for name in named if name is not None))
        if images or not query.images:
            kept[query.id] = DatasetQuery(query.id, query.text, images, query.where)
    if not kept:
        raise nothing_left(pictures, problems)
    return list(kept.values())


def samples_of_queries(queries: Sequence[DatasetQuery], split: str) -> list[Sample]:
    """One sample for each picture, with all its texts, in the order of the queries."""
    texts: dict[str, list[str]] = {}
    for query in queries:
        for image in query.images:
            texts.setdefault(image, []).append(query.text)
    return [
        Sample(image, tuple(image_texts), split, fields=(tuple(image_texts),)) for image, image_texts in texts.items()
    ]


def nothing_left(pictures: ImageSource, problems: Problems) -> CcmbError:
    """The error for a split in which nothing can be used."""
    count = problems.count()
    reason = f"{count:,} faults, the first: {problems.first}" if count else "its files are empty; download them again"
    return CcmbError(f"{pictures.path}: nothing of the split can be used ({reason})")
