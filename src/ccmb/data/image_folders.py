"""Labelled images as one folder a class, in a folder or a tar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ccmb.core.errors import CcmbError, did_you_mean
from ccmb.data.class_names import ImageClass
from ccmb.data.images.source import ImageSource


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """The name of an image in its folder or tar, and the index of its class."""

    name: str
    label: int


def labelled_images(images: ImageSource, classes: Sequence[ImageClass]) -> list[LabelledImage]:
    """Every image with its class: the one that the outermost matching folder above it names.

    A folder is called by the class's WordNet id, English label, index or one of its Chinese names. Case does not matter
    in labels, and an underscore or hyphen counts as a space.

    Raises:
        CcmbError: there are no images, or one lies in no folder that names a class; the message names the folder.
    """
    if not images.names:
        raise CcmbError(f"{images.path}: no images; there must be one folder of images a class")
    index_of = folder_names(classes)
    labelled = []
    for name in images.names:
        folders = name.split("/")[:-1]
        labels = [index_of[key] for key in map(_key, folders) if key in index_of]
        if not labels:
            where = f"{images.path}/{'/'.join(folders)}".rstrip("/")
            hint = did_you_mean(folders[-1], list(index_of)) if folders else ""
            raise CcmbError(
                f"{where}: names none of the {len(classes)} classes{hint}; "
                "call each folder by a class's WordNet id, English label, index or Chinese name"
            )
        labelled.append(LabelledImage(name, labels[0]))
    return labelled


def folder_names(classes: Sequence[ImageClass]) -> dict[str, int]:
    """For each folder name, the index of the class that it stands for.

    A name that two classes share stands for neither. A WordNet id or an index always counts.
    """
    index_of: dict[str, int] = {}
    shared: set[str] = set()
    for index, one in enumerate(classes):
        for name in {_key(name) for name in (*one.names, one.english) if name}:
            if index_of.setdefault(name, index) != index:
                shared.add(name)
    index_of = {name: index for name, index in index_of.items() if name not in shared}
    index_of |= {one.wnid: index for index, one in enumerate(classes) if one.wnid}
    return index_of | {str(index): index for index in range(len(classes))}


def _key(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
