"""Sets to measure on: pairs, labelled pairs and class folders by their path, published sets by their name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccmb.benchmark.evaluation.measurement import MeasuredSet
from ccmb.benchmark.family import SetRequest
from ccmb.benchmark.registry import BENCHMARKS
from ccmb.core.errors import UsageError
from ccmb.data.labelled_pairs import is_labelled
from ccmb.data.shards.shard_set import is_shards
from ccmb.datasets import CARDS
from ccmb.tasks.common.datasets import name_and_path
from ccmb.tasks.registry import FAMILIES


def open_measured_set(
    spec: str,
    split: str = "test",
    fields: Sequence[str] = ("texts",),
    images: Path | None = None,
    classes: str | None = None,
    templates: str = "all",
    captions: bool = False,
    generate: bool = False,
    language: tuple[str, tuple[str, ...]] | None = None,
) -> MeasuredSet:
    """Open `NAME=PATH`: a file of pairs, a folder of a published set of that name, or a folder of class folders.

    Custom pairs are for matching if they are labelled, else for retrieval.

    Args:
        spec: without `NAME=` the set has the name of the folder, or of the folder of its file.
        fields: text fields of custom pairs for retrieval.
        images: folder or tar of the images of custom pairs; by default `images.tar` or `images` beside the file.
        classes: class names of the folders of a set for classification, see `open_class_set`.
        templates: prompts of a class, see `read_templates`.
        captions, generate: measure captions, or images generated from the texts, instead of retrieval.
        language: measure retrieval by the texts of one language, with its fields.

    Raises:
        UsageError: the name cannot be one, or the folder is no set that can be measured.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    name, path = name_and_path(spec, "--data")
    family = _family(name, path, classes)
    asked_for = {"captions": captions, "generate": generate}
    for other in reversed(BENCHMARKS.values()):
        if other.instead_of == family and asked_for.get(FAMILIES[other.name].asked_by or ""):
            family = other.name
    request = SetRequest(
        spec=spec,
        name=name,
        path=path,
        split=split,
        fields=fields,
        images=images,
        classes=classes,
        templates=templates,
        language=language,
    )
    opened: MeasuredSet = BENCHMARKS[family].open_set(request)
    return opened


def _family(name: str, path: Path, classes: str | None) -> str:
    if not classes and is_shards(path) and name.lower() not in CARDS:
        return "retrieval"
    if path.is_file() and path.suffix != ".tar":
        return "matching" if is_labelled(path) else "retrieval"
    if not path.exists():
        return "retrieval"  # whose reader says that it is not there
    if name.lower() in CARDS and path.is_dir():
        card = CARDS[name.lower()]
        measured = [name for name, family in BENCHMARKS.items() if family.is_of_cards]
        family = next((family for family in card.families if family in measured), None)
        if family is None:
            raise UsageError(f"{path}: {card.title} is for {card.families[0]}, and {', '.join(measured)} are measured")
        return family
    if classes or (path / "classes.json").is_file():
        return "classification"
    raise UsageError(
        f"--data {name}={path}: no file of pairs; call a folder by a published set's name (see ccmb data list), or say "
        "with --classes what its folders show"
    )
