"""A model's ranks of the right answers in each language, over images that are encoded once.

The gallery of a language is the images that have texts of it, as published sets of single languages have it.

Shapes: G images of a language's gallery, Q queries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ccmb.core.choices import Convention
from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.data.images.source import ImageSource
from ccmb.data.languages import all_fields, by_language
from ccmb.data.pairs import images_beside, read_pairs, readable_samples
from ccmb.data.sample import Sample
from ccmb.datasets import CARDS, open_dataset
from ccmb.datasets.problems import findings_text
from ccmb.inference.gallery import Gallery, image_batches, text_batches
from ccmb.inference.items import EncodedItems
from ccmb.inference.models.base import Model
from ccmb.inference.raw_items import join
from ccmb.inference.stages import CosineScorer
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.tasks.common.datasets import name_and_path, with_fields
from ccmb.tasks.retrieval.columns import Column

BATCH = 128


@dataclass(frozen=True, slots=True)
class LanguageSet:
    """One split's images with texts by column.

    Attributes:
        samples: images with a text in any column; their `fields` are the columns.
        unreadable: a line for each image that was left out.
    """

    columns: list[Column]
    samples: list[Sample]
    images: ImageSource
    unreadable: list[str]

    def texts(self, column: Column) -> list[tuple[str, ...]]:
        """The texts of each image in one column."""
        index = self.columns.index(column)
        return [sample.fields[index] for sample in self.samples]


@dataclass(frozen=True, slots=True)
class MeasuredLanguage:
    """The ranks of one column.

    Attributes:
        gallery: its images and texts.
        ranks: (Q,) by direction.
        unknown: texts of which the model knows few words or none.
    """

    gallery: Gallery
    ranks: dict[Direction, Ranks]
    unknown: int


def open_languages(spec: str, split: str, columns: Sequence[Column], images: Path | None = None) -> LanguageSet:
    """Open one split with the texts of each column.

    Args:
        spec: a file of own pairs, or NAME=FOLDER of a published set, whose fields are languages.
        images: folder or tar of the images; by default those beside the data.

    Raises:
        CcmbError: the data is missing or faulty, or a column has no text; the message names it.
    """
    fields = {column.name: column.fields for column in columns}
    name, path = name_and_path(spec, "--data")
    if path.is_dir() and name.lower() in CARDS:
        read, source = _published(name, path, split, images, all_fields(fields))
    else:
        read = read_pairs(path, split, all_fields(fields), lenient=True)
        source = ImageSource.open(images or images_beside(path))
    samples, unreadable = readable_samples(by_language(read, fields), source)
    for index, column in enumerate(columns):
        if not any(sample.fields[index] for sample in samples):
            raise CcmbError(f"{path}: split {split} has no text of {column.name} in {', '.join(column.fields)}")
    return LanguageSet(list(columns), samples, source, unreadable)


def _published(
    name: str, folder: Path, split: str, images: Path | None, wanted: Sequence[str]
) -> tuple[list[Sample], ImageSource]:
    """The samples of a published set with the texts of some fields, empty where it has none."""
    dataset = open_dataset(name, folder, split, images)
    if dataset.skipped.findings:
        print(findings_text(dataset.skipped.findings.values()), file=sys.stderr)
    return with_fields(dataset, wanted), dataset.images


def encode_images(model: Model, data: LanguageSet) -> EncodedItems:
    """All images, encoded once for all languages."""
    names = [sample.image for sample in data.samples]
    with progress("encode", len(names), "images") as advance:
        return join(list(image_batches(model, names, data.images.load, BATCH, advance)))


def measure_columns(
    model: Model, data: LanguageSet, depth: int, convention: Convention, columns: Sequence[Column]
) -> Iterator[tuple[Column, MeasuredLanguage]]:
    """The ranks of some columns, one after the other.

    Args:
        depth: candidates that a second stage ranks, if the model has one; 0: none, it pre-ranks alone.
    """
    ranker = model if depth else CosineScorer()
    images = encode_images(model, data)
    for column in columns:
        texts_G = data.texts(column)
        index_G = torch.tensor([row for row, texts in enumerate(texts_G) if texts])
        texts = [text for row in index_G.tolist() for text in texts_G[row]]
        gallery = _gallery(model, images[index_G], [texts_G[row] for row in index_G.tolist()], texts)
        gallery = gallery.with_convention(texts, convention)
        yield (
            column,
            MeasuredLanguage(gallery, ranks_both_ways(ranker, gallery, max(1, depth)), sum(model.unknown(texts))),
        )


def _gallery(model: Model, images: EncodedItems, texts_G: Sequence[Sequence[str]], texts: list[str]) -> Gallery:
    image_of_text: Tensor = torch.tensor([image for image, own in enumerate(texts_G) for _ in own])
    with progress("encode", len(texts), "texts") as advance:
        indices, parts = zip(*text_batches(model, texts, BATCH, advance), strict=True)
    return Gallery(images, join(list(parts))[torch.cat(indices).argsort()], image_of_text)
