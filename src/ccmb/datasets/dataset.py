"""An open data set: its card, samples, queries and images, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ccmb.core.errors import CcmbError
from ccmb.data.grouping import image_key
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.datasets.cards import Card
from ccmb.datasets.formats.by_basename import NamedImages
from ccmb.datasets.problems import NO_IMAGE, REPEATED_ID, TWO_IMAGES, Problems


@dataclass(frozen=True, slots=True)
class DatasetQuery:
    """One text and the images it fits.

    Attributes:
        id: unique within the split.
        images: names of the images; empty if the files do not name any.
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
            for each image, with the names of its class as texts and the index of the class as `extra["label"]`. For
            all other families, one for each image that has texts.
        queries: each text with the images it fits; empty for matching and classification.
        images: the images by name.
        gallery: names of the images to search among.
        skipped: what was left out, counted and with examples.
        fields: names of the samples' fields.
        classes: for classification, the names of each class.
        templates: for classification, sentences in which {} stands for a class name.
    """

    card: Card
    split: str
    samples: list[Sample]
    images: ImageSource
    gallery: list[str]
    skipped: Problems
    queries: list[DatasetQuery] = field(default_factory=list)
    fields: tuple[str, ...] = ("texts",)
    classes: list[tuple[str, ...]] = field(default_factory=list)
    templates: tuple[str, ...] = ()


def by_name(written: str, where: str, images: ImageSource, problems: Problems) -> str | None:
    """The name of the image that a file refers to; None if it is missing, which is counted."""
    if isinstance(images, NamedImages):
        name = images.resolve(written)
        if name in images.ambiguous:
            problems.add(TWO_IMAGES, f"{where}: {images.path} has several images {name}")
    else:
        name = image_key(written) if written in images else None
    if name is None:
        problems.add(NO_IMAGE, f"{where}: no image {written} in {images.path}")
    return name


def present_queries(
    queries: Iterable[DatasetQuery], image_source: ImageSource, problems: Problems
) -> list[DatasetQuery]:
    """The queries without missing images.

    If all images of a query are missing, it is left out. Of queries with equal ids the first one is kept.

    Raises:
        CcmbError: no query is left.
    """
    kept: dict[str, DatasetQuery] = {}
    for query in queries:
        if query.id in kept:
            problems.add(REPEATED_ID, f"{query.where}: id {query.id} occurs twice")
            continue
        named = (by_name(image, query.where, image_source, problems) for image in query.images)
        images = tuple(dict.fromkeys(name for name in named if name is not None))
        if images or not query.images:
            kept[query.id] = DatasetQuery(query.id, query.text, images, query.where)
    if not kept:
        raise nothing_left(image_source, problems)
    return list(kept.values())


def samples_of_queries(queries: Sequence[DatasetQuery], split: str) -> list[Sample]:
    """One sample for each image, with all its texts, in the order of the queries."""
    texts: dict[str, list[str]] = {}
    for query in queries:
        for image in query.images:
            texts.setdefault(image, []).append(query.text)
    return [
        Sample(image, tuple(image_texts), split, fields=(tuple(image_texts),)) for image, image_texts in texts.items()
    ]


def nothing_left(images: ImageSource, problems: Problems) -> CcmbError:
    """The error for a split in which nothing can be used."""
    count = problems.count()
    reason = f"{count:,} faults, the first: {problems.first}" if count else "its files are empty; download them again"
    return CcmbError(f"{images.path}: nothing of the split can be used ({reason})")
