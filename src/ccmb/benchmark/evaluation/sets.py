"""Sets to measure on: own pairs, labelled pairs and folders of classes by their place, published sets by their name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccmb.benchmark.evaluation.captioning import CaptionSet
from ccmb.benchmark.evaluation.classification_sets import ClassSet, open_class_set
from ccmb.benchmark.evaluation.generation import GenerationSet
from ccmb.core.errors import UsageError
from ccmb.data.images.source import ImageSource
from ccmb.data.labelled_pairs import is_labelled, label_of
from ccmb.data.sample import Sample
from ccmb.data.shards.shard_set import is_shards
from ccmb.datasets import CARDS
from ccmb.datasets.matching import open_labelled
from ccmb.tasks.common.datasets import RetrievalSet, name_and_path, revision
from ccmb.tasks.common.datasets import open_set as open_retrieval_set

MEASURED = ("retrieval", "matching", "classification", "generation")


@dataclass(frozen=True, slots=True)
class MatchingSet:
    """One split of labelled pairs; see `RetrievalSet`, but that the revision is of the labels too."""

    name: str
    split: str
    samples: list[Sample]
    pictures: ImageSource
    revision: str


MeasuredSet = RetrievalSet | MatchingSet | ClassSet | CaptionSet | GenerationSet


def family_of(of: MeasuredSet) -> str:
    """What a set is measured for."""
    families = {
        MatchingSet: "matching", ClassSet: "classification", CaptionSet: "captioning", GenerationSet: "generation",
    }  # fmt: skip
    return families.get(type(of), "retrieval")


def open_set(
    spec: str,
    split: str = "test",
    fields: Sequence[str] = ("texts",),
    images: Path | None = None,
    classes: str | None = None,
    templates: str = "all",
    captions: bool = False,
    generate: bool = False,
) -> MeasuredSet:
    """Open `NAME=pairs.jsonl`, `NAME=FOLDER` for a published set of that name, or for an own one of folders of classes.

    Own pairs are for matching if they are labelled, else for retrieval.

    Args:
        spec: without `NAME=` the set is called as the folder of its file, or as the folder.
        fields: text fields of own pairs for retrieval.
        images: folder or tar of the pictures of own pairs; by default `images.tar` or `images` beside the file.
        classes: what the folders of a set for classification show, see `open_class_set`.
        templates: prompts of a class, see `read_templates`.
        captions, generate: measure captions, or pictures painted from the texts, where it would be retrieval.

    Raises:
        UsageError: the name cannot be one, or the folder is no set that can be measured.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    name, path = name_and_path(spec, "--data")
    family = _family(name, path, classes)
    if family == "classification":
        return open_class_set(name, path, split, classes, templates)
    if family == "matching":
        samples, pictures = open_labelled(path, split, images, name)
        labels = json.dumps([label_of(sample) for sample in samples]).encode()
        return MatchingSet(name, split, samples, pictures, revision(samples, labels, pictures))
    if generate or family == "generation":
        return GenerationSet(open_retrieval_set(spec, split, fields, images, family="generation"))
    found = open_retrieval_set(spec, split, fields, images)
    return CaptionSet(found) if captions else found


def _family(name: str, path: Path, classes: str | None) -> str:
    if not classes and is_shards(path) and name.lower() not in CARDS:
        return "retrieval"
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
