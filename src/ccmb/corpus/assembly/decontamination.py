"""Test data that a corpus must not hold: images and texts of downstream sets, and images in folders and tars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write
from ccmb.corpus.assembly.held_out import HeldOutImages
from ccmb.data.images.source import ImageSource
from ccmb.datasets import open_dataset
from ccmb.datasets.cards import find_card
from ccmb.datasets.locate import MissingFile

HELD_OUT = ("val", "test")


def open_test_images(paths: Sequence[str]) -> list[HeldOutImages]:
    """Open folders and tars of images.

    Raises:
        CcmbError: a path does not exist.
    """
    return [HeldOutImages(path, ImageSource.open(path)) for path in paths]


def open_test_sets(specs: Sequence[str], folder: Path) -> tuple[list[HeldOutImages], list[str]]:
    """Open the held-out splits of downstream sets, and write the texts of each set into a file in `folder`.

    Args:
        specs: NAME:FOLDER of each set.

    Returns:
        The images, and the paths of the files of texts.

    Raises:
        UsageError: a spec does not name a set and a folder.
        CcmbError: a set has no held-out split in its folder.
    """
    images: list[HeldOutImages] = []
    files: list[str] = []
    for spec in specs:
        name, _, set_folder = spec.partition(":")
        if not set_folder:
            raise UsageError(f"--test-set {spec}: write NAME:FOLDER, such as muge:downloads/muge")
        splits = [published.name for published in find_card(name).splits if published.name in HELD_OUT]
        texts: list[str] = []
        before = len(images)
        for split in splits:
            try:
                dataset = open_dataset(name, set_folder, split)
            except MissingFile:
                continue
            names = dict.fromkeys([*dataset.gallery, *(sample.image for sample in dataset.samples)])
            images.append(HeldOutImages(f"{name} {split}", dataset.images, list(names)))
            texts += [text for sample in dataset.samples for text in sample.texts]
        if len(images) == before:
            raise CcmbError(f"{set_folder}: no held-out split of {name} is there ({', '.join(splits)})")
        path = folder / f"test-texts-{name}.txt"
        with atomic_write(path) as file:
            file.writelines(" ".join(text.split()) + "\n" for text in texts)
        files.append(str(path))
    return images, files
