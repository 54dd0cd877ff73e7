"""What a data set is once it is open: a card, samples, queries, pictures, and what was left out."""

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
class Query:
    """One text and the pictures it fits.

    Attributes:
        id: no two queries of a split have the same.
        images: names of the pictures; none where the files do not say.
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
        samples: of matching, one for each labelled pair, with `extra["label"]` 1 or 0; of classification, one for
            each picture, with the names of its class as texts and the number of the class, from 0, as
            `extra["label"]`; of all others, one for each picture that has texts.
        queries: of all but matching and classification, each text with the pictures it fits.
        pictures: by the names that samples and queries use.
        gallery: names of the pictures to search among.
        skipped: what was left out, counted and with examples.
        fields: names of the samples' fields.
        classes: of classification, the names of each class.
        templates: of classification, sentences in which {} stands for a class name.
    """

    card: Card
    split: str
    samples: list[Sample]
    pictures: ImageSource
    gallery: list[str]
    skipped: Problems
    queries: list[Query] = field(default_factory=list)
    fields: tuple[str, ...] = ("texts",)
    classes: list[tuple[str, ...]] = field(default_factory=list)
    templates: tuple[str, ...] = ()


def by_name(written: str, where: str, pictures: ImageSource, problems: Problems) -> str | None:
    """The name of the picture that a file means, or None, counted, where it is missing."""
    if isinstance(pictures, NamedImages):
        name = pictures.resolve(written)
        if name in pictures.ambiguous:
            problems.add(TWO_PICTURES, f"{where}: {pictures.path} has several pictures {name}")
    else:
        name = image_key(written) if written in pictures else None
    if name is None:
        problems.add(NO_PICTURE, f"{where}: no picture {written} in {pictures.path}")
    return name


def present_queries(queries: Iterable[Query], pictures: ImageSource, problems: Problems) -> list[Query]:
    """The queries with those of their pictures that are there; of equal ids the first, and none that lost all.

    Raises:
        CcmbError: none is left.
    """
    kept: dict[str, Query] = {}
    for query in queries:
        if query.id in kept:
            problems.add(REPEATED_ID, f"{query.where}: id {query.id} is there twice")
            continue
        named = (by_name(image, query.where, pictures, problems) for image in query.images)
        images = tuple(dict.fromkeys(name for name in named if name is not None))
        if images or not query.images:
            kept[query.id] = Query(query.id, query.text, images, query.where)
    if not kept:
        raise nothing_left(pictures, problems)
    return list(kept.values())


def samples_of_queries(queries: Sequence[Query], split: str) -> list[Sample]:
    """One sample for each picture, with all its texts, in the order of the queries."""
    texts: dict[str, list[str]] = {}
    for query in queries:
        for image in query.images:
            texts.setdefault(image, []).append(query.text)
    return [Sample(image, tuple(of_image), split, fields=(tuple(of_image),)) for image, of_image in texts.items()]


def nothing_left(pictures: ImageSource, problems: Problems) -> CcmbError:
    """The error of a split of which nothing can be used."""
    count = problems.count()
    reason = f"{count:,} faults, the first: {problems.first}" if count else "its files are empty; download them again"
    return CcmbError(f"{pictures.path}: nothing of the split can be used ({reason})")
