"""Sets of images and texts to train and to measure retrieval on: own pairs by their file, published sets by their
name and folder."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ccmb.core.config.recipe_files import data_folder
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.hashing import sha256_of_bytes
from ccmb.core.logs import BARE
from ccmb.core.progress import progress
from ccmb.data.images.source import ImageSource, UnreadableImageError
from ccmb.data.languages import AT, by_language
from ccmb.data.other_forms import refuse_other_forms
from ccmb.data.pairs import files_of, images_beside, read_pairs
from ccmb.data.sample import Sample
from ccmb.data.shards.shard_set import is_shards, open_shard_set
from ccmb.datasets import CARDS, Dataset, open_dataset
from ccmb.datasets.dataset import samples_of_queries
from ccmb.datasets.problems import findings_text
from ccmb.training.distributed import world
from ccmb.training.recipe import DataRecipe

_LOG = logging.getLogger(__name__)

NAME = re.compile(r"[\w.-]+")
Queries = list[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class RetrievalSet:
    """One split of a set for retrieval.

    Attributes:
        name, split: how results are filed.
        samples: images of the gallery with their texts.
        queries: texts, each with the names of all images that fit it, where texts have several of these or images
            have none; the samples then have no texts. None where each text has its sample's image.
        images: where the images lie.
        language: tag of the texts, where one was asked for.
    """

    family: ClassVar[str] = "retrieval"
    name: str
    split: str
    samples: list[Sample]
    queries: Queries | None
    images: ImageSource
    language: str | None = None

    @cached_property
    def revision(self) -> str:
        """Hexadecimal SHA-256 of all names, texts and bytes of images, in their order."""
        query_bytes = json.dumps(self.queries).encode() if self.queries else b""
        return revision(self.samples, query_bytes, self.images)


def open_set(
    spec: str,
    split: str = "test",
    fields: Sequence[str] = ("texts",),
    images: Path | None = None,
    option: str = "--data",
    family: str = "retrieval",
) -> RetrievalSet:
    """Open `NAME=pairs.jsonl`, `NAME=FOLDER` for a published set of that name, or of shards, all of whose samples count
    whatever the split.

    Args:
        spec: without `NAME=` the set is called as the folder of its file.
        fields: text fields of own pairs.
        images: folder or tar of the images of own pairs; by default `images.tar` or `images` beside the file.
        option: of the command line, for messages.
        family: what a published set must be for; retrieval's serve for captions too.

    Raises:
        UsageError: the name cannot be one, or no published set of the family has it.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    name, path = name_and_path(spec, option)
    if is_shards(path) and name.lower() not in CARDS:
        return _of_shards(name, [str(path)], split, fields)
    if path.is_dir():
        if name.lower() not in CARDS:
            refuse_other_forms(path)
        dataset = _published(open_dataset(name, path, split, images), path, family)
        return replace(dataset, name=name, split=split)
    samples = read_pairs(path, split, fields)
    return RetrievalSet(name, split, samples, None, ImageSource.open(images or images_beside(path)))


def open_training(data: DataRecipe, family: str = "retrieval") -> tuple[list[Sample], ImageSource]:
    """Open the training data of a recipe: images with their texts, of own pairs or of a published set.

    What is wrong with single lines of a published set is told on stderr and left out.

    Raises:
        UsageError: there is no such set or field, or it is none for retrieval.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    if data.shards:
        of_shards = _of_shards(data.name, data.shards, data.split, data.fields)
        return of_shards.samples, of_shards.images
    folder = data_folder(str(data.folder))
    if data.dataset is None:
        if not files_of(folder / data.pairs)[0].exists():
            refuse_other_forms(folder)
        return _some(_own_samples(data, folder, data.split), data.max_images), ImageSource.open(folder / data.images)
    dataset = _open_published(data, folder, data.split)
    _check_family(dataset, folder, family)
    if dataset.skipped.findings and world().is_main:
        _LOG.warning(findings_text(dataset.skipped.findings.values()), extra=BARE)
    samples = with_fields(dataset, data.text_fields)
    samples = samples if data.languages is None else by_language(samples, data.languages)
    return _some(samples, data.max_images), dataset.images


def open_held_out(
    data: DataRecipe, split: str, fields: Sequence[str] | None = None, family: str = "retrieval"
) -> RetrievalSet:
    """Open another split of the training data of a recipe, to measure on.

    Args:
        fields: of own pairs; by default those that are trained on.

    Raises:
        UsageError, CcmbError: see `open_training`.
    """
    if data.shards:
        raise CcmbError("data.shards: shards have no splits; measure on other data with --also")
    folder = data_folder(str(data.folder))
    if data.dataset is not None:
        return _published(_open_published(data, folder, split), folder, family)
    samples = _own_samples(data, folder, split, fields)
    return RetrievalSet(data.name, split, samples, None, ImageSource.open(folder / data.images))


def _own_samples(data: DataRecipe, folder: Path, split: str, fields: Sequence[str] | None = None) -> list[Sample]:
    """Own pairs with their texts by field, or by language where the recipe names languages."""
    lenient = data.languages is not None
    samples = read_pairs(folder / data.pairs, split, fields or data.text_fields, lenient=lenient)
    return samples if fields is not None or data.languages is None else by_language(samples, data.languages)


def _some(samples: list[Sample], count: int | None) -> list[Sample]:
    """So many of the samples, in their order; fewer are always among more, and those of a name together."""
    if count is None or count >= len(samples):
        return samples
    digest = {sample.image: sha256_of_bytes(sample.image.encode()) for sample in samples}
    chosen = set(sorted(digest, key=lambda name: digest[name])[:count])
    return [sample for sample in samples if sample.image in chosen]


def _of_shards(name: str, sources: Sequence[str], split: str, fields: Sequence[str]) -> RetrievalSet:
    """All samples of some shards, which have no splits; those that cannot be used are counted on stderr."""
    samples, images, faults = open_shard_set(sources, fields)
    if faults and world().is_main:
        _LOG.warning(f"{len(faults):,} samples left out, the first: {faults[0]}")
    return RetrievalSet(name, split, samples, None, images)


def first_images(dataset: RetrievalSet, count: int | None) -> RetrievalSet:
    """The set with its first `count` images alone, and the texts that fit one of them."""
    if count is None or count >= len(dataset.samples):
        return dataset
    samples = dataset.samples[:count]
    if dataset.queries is None:
        return replace(dataset, samples=samples)
    kept = {sample.image for sample in samples}
    return replace(
        dataset, samples=samples, queries=[query for query in dataset.queries if kept.intersection(query[1])]
    )


def _open_published(data: DataRecipe, folder: Path, split: str) -> Dataset:
    images = folder / data.images
    return open_dataset(str(data.dataset), folder, split, images if images.exists() else None)


def with_fields(dataset: Dataset, wanted: Sequence[str]) -> list[Sample]:
    """The samples with the texts of the wanted fields alone, without those that have none."""
    index = {name: row for row, name in enumerate(dataset.fields)}
    if unknown := [name for name in wanted if name not in index and AT not in name]:
        raise UsageError(
            f"data.fields: {dataset.card.title} has no '{unknown[0]}'; it has: {', '.join(dataset.fields)}"
        )
    chosen = []
    for sample in dataset.samples:
        fields = tuple(sample.fields[index[name]] if name in index else () for name in wanted)
        if texts := tuple(text for of_field in fields for text in of_field):
            chosen.append(replace(sample, texts=texts, fields=fields))
    return chosen


def name_and_path(spec: str, option: str) -> tuple[str, Path]:
    """`NAME=PATH` in two; without `NAME=` the name is that of the folder of the file, or of the folder."""
    name, equals, path = spec.partition("=")
    if not equals or Path(spec).exists():
        resolved = Path(spec).resolve()
        name, path = resolved.name if resolved.is_dir() else resolved.parent.name, spec
    if not NAME.fullmatch(name) or name.startswith(".") or not path:
        raise UsageError(f"{option} {spec}: give NAME=PAIRS.jsonl, with a name of letters, digits, '.', '-' and '_'")
    return name, Path(path)


def _published(dataset: Dataset, folder: Path, family: str) -> RetrievalSet:
    """The images with their texts, or apart from them where they do not belong one to one."""
    _check_family(dataset, folder, family)
    queries = [(query.text, query.images) for query in dataset.queries if query.images]
    if not queries:
        raise CcmbError(f"{folder}: the files of {dataset.card.title} do not say which images are right in this split")
    single = all(len(images) == 1 for _, images in queries)
    if single and set(dataset.gallery) == {images[0] for _, images in queries}:
        # Not the samples as read: those of Flickr8k-CN have translations among their texts.
        samples = samples_of_queries(dataset.queries, dataset.split)
        return RetrievalSet(dataset.card.name, dataset.split, samples, None, dataset.images)
    samples = [Sample(name, (), dataset.split) for name in dataset.gallery]
    return RetrievalSet(dataset.card.name, dataset.split, samples, queries, dataset.images)


def _check_family(dataset: Dataset, folder: Path, family: str) -> None:
    """Refuse a set of another family; images with texts of their own serve generation, too."""
    if not {family, "retrieval"} & {*dataset.card.families}:
        raise UsageError(f"{folder}: {dataset.card.title} is no set for {family}")


def revision(samples: Sequence[Sample], query_bytes: bytes, images: ImageSource) -> str:
    """Hexadecimal SHA-256 of `query_bytes`, and of each sample's name, image and texts."""
    digest, bytes_of = hashlib.sha256(query_bytes), dict[str, bytes]()
    with progress("read images", len(samples), "images") as advance:
        for sample in samples:
            if sample.image not in bytes_of:
                bytes_of[sample.image] = hashlib.sha256(_raw(images, sample.image)).digest()
            for part in (sample.image.encode(), bytes_of[sample.image], *map(str.encode, sample.texts)):
                digest.update(len(part).to_bytes(8, "big") + part)
            digest.update(b"\n")
            advance(1, "")
    return digest.hexdigest()


def _raw(images: ImageSource, name: str) -> bytes:
    try:
        return images.raw(name)
    except UnreadableImageError:
        return b""


def texts_and_pairs(samples: Sequence[Sample], queries: Queries | None) -> tuple[list[Sequence[str]], Tensor | None]:
    """The texts of each image, those of several images at the first; and (P, 2) matching indices, see `Gallery`."""
    if queries is None:
        return [sample.texts for sample in samples], None
    index_of = {sample.image: number for number, sample in enumerate(samples)}
    of_image: list[list[tuple[str, list[int]]]] = [[] for _ in samples]
    for text, names in queries:
        if right := [index_of[name] for name in names if name in index_of]:
            of_image[right[0]].append((text, right))
    flat = [right for texts in of_image for _, right in texts]
    pairs = [(number, image) for number, right in enumerate(flat) for image in right]
    return [[text for text, _ in texts] for texts in of_image], torch.tensor(pairs)
