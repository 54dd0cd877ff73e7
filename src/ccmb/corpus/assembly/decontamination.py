"""What a corpus is kept clear of: pictures and texts of downstream sets, and pictures in folders and tars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write
from ccmb.corpus.assembly.held_out import HeldOutPictures
from ccmb.data.images.source import ImageSource
from ccmb.datasets import open_dataset
from ccmb.datasets.cards import find_card
from ccmb.datasets.locate import MissingFile

HELD_OUT = ("val", "test")


def open_test_pictures(paths: Sequence[str]) -> list[HeldOutPictures]:
    """Folders and tars of pictures.

    Raises:
        CcmbError: there is none of that name.
    """
    return [HeldOutPictures(path, ImageSource.open(path)) for path in paths]


def open_test_sets(specs: Sequence[str], folder: Path) -> tuple[list[HeldOutPictures], list[str]]:
    """Pictures of the held-out splits of downstream sets, and a file in `folder` with the texts of each.

    Args:
        specs: NAME:FOLDER of each.

    Raises:
        UsageError: a spec names no set and folder.
        CcmbError: none of a set's held-out splits is there.
    """
    pictures: list[HeldOutPictures] = []
    files: list[str] = []
    for spec in specs:
        name, _, place = spec.partition(":")
        if not place:
            raise UsageError(f"--test-set {spec}: write NAME:FOLDER, such as muge:downloads/muge")
        splits = [published.name for published in find_card(name).splits if published.name in HELD_OUT]
        texts: list[str] = []
        found = len(pictures)
        for split in splits:
            try:
                dataset = open_dataset(name, place, split)
            except MissingFile:
                continue
            names = dict.fromkeys([*dataset.gallery, *(sample.image for sample in dataset.samples)])
            pictures.append(HeldOutPictures(f"{name} {split}", dataset.pictures, list(names)))
            texts += [text for sample in dataset.samples for text in sample.texts]
        if len(pictures) == found:
            raise CcmbError(f"{place}: no held-out split of {name} is there ({', '.join(splits)})")
        path = folder / f"test-texts-{name}.txt"
        with atomic_write(path) as file:
            file.writelines(" ".join(text.split()) + "\n" for text in texts)
        files.append(str(path))
    return pictures, files
