"""One way to open labelled pairs: custom ones by their file, ICM and IQM by name and folder."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import UsageError
from ccmb.data.images.source import ImageSource
from ccmb.data.labelled_pairs import read_labelled_pairs
from ccmb.data.pairs import images_beside
from ccmb.data.sample import Sample
from ccmb.datasets import open_dataset


def open_labelled(
    path: Path, split: str, images: Path | None = None, name: str = ""
) -> tuple[list[Sample], ImageSource]:
    """The labelled pairs of one split, and their images.

    Args:
        path: a file of custom labelled pairs, or the folder of a published set.
        images: folder, tar or pack of the images, by default beside the pairs.
        name: the name of the published set.

    Raises:
        UsageError: no published set has the name, or it is not a matching set.
        CcmbError: the data is missing or faulty; the message names file and line.
    """
    if not path.is_dir():
        samples = read_labelled_pairs(path, split)
        return samples, ImageSource.open(images or images_beside(path))
    dataset = open_dataset(name, path, split, images)
    if "matching" not in dataset.card.families:
        raise UsageError(f"{path}: {dataset.card.title} is not a set of labelled pairs; ICM and IQM are")
    return dataset.samples, dataset.images
