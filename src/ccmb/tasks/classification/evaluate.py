"""`ccmb evaluate --classes`: the accuracy of zero-shot classification on one folder of images a class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.data.class_names import ImageClass
from ccmb.data.image_folders import LabelledImage, labelled_images
from ccmb.data.images.source import ImageSource, UnreadableImageError
from ccmb.tasks.classification.classifier import Classifier, accuracy_report, label_ranks


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """Folders of images, one a class, the classes' names, and the prompts that ask for them."""

    classes: list[ImageClass]
    templates: tuple[str, ...]
    images: ImageSource


@dataclass(frozen=True, slots=True)
class ClassRanks:
    """Labels (N,) of the images that can be read, the ranks (N,) of their own classes by each stage (`second` is None
    without one), and a line for each other image."""

    labels: Tensor
    first: Tensor
    second: Tensor | None
    unreadable: list[str]


def evaluate_classes(classifier: Classifier, images: ImageSource, batch: int = 64) -> dict[str, Any]:
    """Accuracy on all images that can be read; memory does not grow with their number.

    The metrics of "classification" are the first stage's, which any model has; "ranking" holds those of the second.

    Raises:
        CcmbError: a folder names no class, there are no images, or none can be read.
    """
    started = time.monotonic()
    ranks = predict(classifier, images, batch)
    report = class_report(ranks, classifier)
    seconds = {"evaluate": round(time.monotonic() - started, 1)}
    return {"classification": report, "unreadable": ranks.unreadable, "seconds": seconds}


def predict(classifier: Classifier, images: ImageSource, batch: int = 64) -> ClassRanks:
    """The rank of each image's own class, which its folder names."""
    return class_ranks(classifier, labelled_images(images, classifier.classes), images, batch)


def class_ranks(
    classifier: Classifier, labelled: Sequence[LabelledImage], images: ImageSource, batch: int = 64
) -> ClassRanks:
    """The rank of each image's own class.

    Raises:
        CcmbError: none of the images can be read.
    """
    labels: list[int] = []
    first, second, unreadable = [], [], []
    with progress("classify", len(labelled), "images") as advance:
        for start in range(0, len(labelled), batch):
            loaded: list[Image.Image] = []
            of_chunk = []
            for one in labelled[start : start + batch]:
                try:
                    loaded.append(images.load(one.name))
                    of_chunk.append(one.label)
                except UnreadableImageError as error:
                    unreadable.append(str(error))
            if loaded:
                ranks, ranking = label_ranks(classifier.scores(loaded), torch.tensor(of_chunk))
                labels += of_chunk
                first.append(ranks)
                second += [] if ranking is None else [ranking]
            advance(len(labelled[start : start + batch]), "")
    if not labels:
        raise CcmbError(f"{images.path}: none of the images could be read ({unreadable[0]})")
    return ClassRanks(torch.tensor(labels), torch.cat(first), torch.cat(second) if second else None, unreadable)


def class_report(ranks: ClassRanks, classifier: Classifier) -> dict[str, Any]:
    """Counts and accuracies of both stages."""
    report: dict[str, Any] = {"pictures": len(ranks.labels), "classes": len(classifier.classes)}
    report |= {"classes_with_pictures": len(ranks.labels.unique()), **accuracy_report(ranks.first, ranks.labels)}
    if ranks.second is not None:
        report["ranking"] = {"depth": classifier.depth, **accuracy_report(ranks.second, ranks.labels)}
    return report
