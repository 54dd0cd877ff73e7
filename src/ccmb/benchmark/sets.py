"""Sets to measure on: own pairs, labelled pairs and folders of classes by their place, published sets by their name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccmb.benchmark.class_sets import ClassSet, open_class_set
from ccmb.benchmark.revision import revision
from ccmb.data.downstream import CARDS, Dataset, open_dataset
from ccmb.data.downstream.dataset import samples_of_queries
from ccmb.data.labelled_pairs import is_labelled, label_of
from ccmb.data.labelled_sets import open_labelled
from ccmb.data.pairs import pictures_beside, read_pairs
from ccmb.data.pictures import Pictures
from ccmb.errors import CcmbError, UsageError
from ccmb.samples import Sample

NAME = re.compile(r"[\w.-]+")
MEASURED = ("retrieval", "matching", "classification")
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


@dataclass(frozen=True, slots=True)
class MatchingSet:
    """One split of labelled pairs; see `RetrievalSet`, but that the revision is of the labels too."""

    name: str
    split: str
    samples: list[Sample]
    pictures: Pictures
    revision: str


MeasuredSet = RetrievalSet | MatchingSet | ClassSet


def open_set(
    spec: str,
    split: str = "test",
    fields: Sequence[str] = ("texts",),
    images: Path | None = None,
    classes: str | None = None,
    templates: str = "all",
) -> MeasuredSet:
    """Open `NAME=pairs.jsonl`, `NAME=FOLDER` for a published set of that name, or for an own one of folders of classes.

    Own pairs are for matching if they are labelled, else for retrieval.

    Args:
        spec: without `NAME=` the set is called as the folder of its file, or as the folder.
        fields: text fields of own pairs for retrieval.
        images: folder or tar of the pictures of own pairs; by default `images.tar` or `images` beside the file.
        classes: what the folders of a set for classification show, see `open_class_set`.
        templates: prompts of a class, see `read_templates`.

    Raises:
        UsageError: the name cannot be one, or the folder is no set that can be measured.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    name, path = _name_and_path(spec)
    family = _family(name, path, classes)
    if family == "classification":
        return open_class_set(name, path, split, classes, templates)
    if family == "matching":
        samples, pictures = open_labelled(path, split, images, name)
        labels = json.dumps([label_of(sample) for sample in samples]).encode()
        return MatchingSet(name, split, samples, pictures, revision(samples, labels, pictures))
    if path.is_dir():
        found = open_dataset(name, path, split, images)
        samples, queries, pictures = *_published(found, path), found.pictures
    else:
        samples, queries = read_pairs(path, split, fields), None
        pictures = Pictures.open(images or pictures_beside(path))
    told = json.dumps(queries).encode() if queries else b""
    return RetrievalSet(name, split, samples, queries, pictures, revision(samples, told, pictures))


def _name_and_path(spec: str) -> tuple[str, Path]:
    name, equals, path = spec.partition("=")
    if not equals or Path(spec).exists():
        place = Path(spec).resolve()
        name, path = place.name if place.is_dir() else place.parent.name, spec
    if not NAME.fullmatch(name) or name.startswith(".") or not path:
        raise UsageError(f"--data {spec}: give NAME=PAIRS.jsonl, with a name of letters, digits, '.', '-' and '_'")
    return name, Path(path)


def _family(name: str, path: Path, classes: str | None) -> str:
    if path.is_file() and path.suffix != ".tar":
        return "matching" if is_labelled(path) else "retrieval"
    if not path.exists():
        return "retrieval"  # whose reader says that it is not there
    if name.lower() in CARDS and path.is_dir():
        card = CARDS[name.lower()]
        family = next((family for family in card.families if family in MEASURED), None)
        if family is None:
            raise UsageError(f"{path}: {card.title} is for {card.families[0]}, and {', '.join(MEASURED)} are measured")
        return family
    if classes or (path / "classes.json").is_file():
        return "classification"
    raise UsageError(
        f"--data {name}={path}: no file of pairs; call a folder by a published set's name (see ccmb data list), or say "
        "with --classes what its folders show"
    )


def _published(found: Dataset, folder: Path) -> tuple[list[Sample], Queries | None]:
    """The pictures with their texts, or apart from them where they do not belong one to one."""
    queries = [(query.text, query.images) for query in found.queries if query.images]
    if not queries:
        raise CcmbError(f"{folder}: the files of {found.card.title} do not say which pictures are right in this split")
    single = all(len(images) == 1 for _, images in queries)
    if single and set(found.gallery) == {images[0] for _, images in queries}:
        # Not the samples as read: those of Flickr8k-CN have translations among their texts.
        return samples_of_queries(found.queries, found.split), None
    return [Sample(name, (), found.split) for name in found.gallery], queries
