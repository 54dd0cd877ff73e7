"""Sets for classification: ImageNet as published, or the user's folders of one class each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ccmb.core.hashing import sha256_of_bytes
from ccmb.data.class_names import ImageClass, read_classes
from ccmb.data.image_folders import LabelledImage, labelled_images
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.datasets import open_dataset
from ccmb.datasets.formats.imagenet import CLASS_FILES
from ccmb.tasks.classification.prompts import read_templates
from ccmb.tasks.common.datasets import revision


@dataclass(frozen=True, slots=True)
class ClassSet:
    """Labelled images, the names of their classes, and their prompts.

    Attributes:
        name, split: how results are filed; the split is "all" where there are no folders of splits.
        classes, class_list: the classes, and where their names are from.
        labelled: the images with the number of their class.
        templates, prompt_set: the prompts, and what they are called, with their number and the beginning of their
            SHA-256.
        images: where the images lie.
        revision: hexadecimal SHA-256 of all classes' names and of all images with their labels.
    """

    family: ClassVar[str] = "classification"
    name: str
    split: str
    classes: list[ImageClass]
    class_list: str
    labelled: list[LabelledImage]
    templates: tuple[str, ...]
    prompt_set: str
    images: ImageSource
    revision: str

    @property
    def samples(self) -> list[Sample]:
        """The images with the names of their classes."""
        return [Sample(one.name, self.classes[one.label].names) for one in self.labelled]


def open_class_set(name: str, path: Path, split: str, classes: str | None, templates: str) -> ClassSet:
    """Open a folder or tar of folders of classes, below the folder of the split where there is one.

    Args:
        classes: whose names to use; by default those in its `classes.json` or, of ImageNet, in its class-name file, or
            else the list that ships with the package.
        templates: see `read_templates`; ImageNet's own come first, where it brings its names too.

    Raises:
        UsageError, CcmbError: faulty classes, templates or folders; the message names them.
    """
    if classes is None and any((path / file).is_file() for file in CLASS_FILES):
        dataset = open_dataset("imagenet", path, split)
        known = [ImageClass(names) for names in dataset.classes]
        labelled = [LabelledImage(sample.image, int(str((sample.extra or {})["label"]))) for sample in dataset.samples]
        images, class_list, prompts, called = dataset.images, "its own", dataset.templates, "its own"
        split = dataset.split
    else:
        class_file = path / "classes.json"
        source = classes or (str(class_file) if class_file.is_file() else "imagenet")
        known, prompts, called = read_classes(source), read_templates(templates), templates
        inner = path / split
        split, images = (split, ImageSource.open(inner)) if inner.is_dir() else ("all", ImageSource.open(path))
        labelled, class_list = labelled_images(images, known), Path(source).name
    samples = [Sample(one.name, known[one.label].names) for one in labelled]
    names_json = json.dumps([one.names for one in known], ensure_ascii=False).encode()
    return ClassSet(
        name=name,
        split=split,
        classes=known,
        class_list=class_list,
        labelled=labelled,
        templates=prompts,
        prompt_set=_prompt_set(called, prompts),
        images=images,
        revision=revision(samples, names_json, images),
    )


def _prompt_set(called: str, templates: tuple[str, ...]) -> str:
    digest = sha256_of_bytes("\n".join(templates).encode())
    return f"{called} ({len(templates)}) {digest[:8]}"
