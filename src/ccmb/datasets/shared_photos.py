"""Photographs that two splits or two data sets share, by the numbers in their file names.

Flickr30k (and its Chinese captions, Flickr30k-CN and -CNA) contains Flickr8k, with other splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json_lines
from ccmb.data.grouping import image_key
from ccmb.data.photo_ids import Photo, photos_of
from ccmb.datasets.cards import find_card
from ccmb.datasets.locate import MissingFile
from ccmb.datasets.problems import SHARED_PHOTO, SHARED_PICTURE, Problems
from ccmb.datasets.registry import open_dataset

# Names of images by split.
Names = Mapping[str, Iterable[str]]
# How many images of a split the splits of another set have.
Shared = dict[str, dict[str, int]]


def names_of_set(spec: str) -> tuple[str, dict[str, list[str]]]:
    """The name of a set and the names of its images by split; of own pairs no image need be there.

    Args:
        spec: NAME=FOLDER of a published set, or the file of own pairs, or NAME=PAIRS.jsonl.

    Raises:
        UsageError: the spec names neither.
        CcmbError: the set cannot be read.
    """
    name, _, place = ("", "", spec) if Path(spec).exists() else spec.partition("=")
    path = Path(place)
    if path.is_file():
        names: dict[str, list[str]] = {}
        for number, line in read_json_lines(path):
            if not isinstance(line.get("image"), str):
                raise CcmbError(f'{path}:{number}: no "image": each line needs the name of its picture')
            names.setdefault(str(line.get("split", "train")), []).append(image_key(str(line["image"])))
        return name or path.resolve().parent.name, {split: list(dict.fromkeys(of)) for split, of in names.items()}
    if not name or not place or not path.is_dir():
        raise UsageError(f"--against {spec}: give NAME=FOLDER of a data set, or a file of pairs")
    card, splits = find_card(name), dict[str, list[str]]()
    for published in card.splits:
        try:
            splits[published.name] = open_dataset(name, path, published.name).gallery
        except MissingFile:
            continue
    if not splits:
        raise CcmbError(f"{path}: no split of {card.title} is there")
    return name, splits


def check_across_splits(
    split: str, names: Iterable[str], seen: dict[Photo, tuple[str, str]], problems: Problems
) -> None:
    """Count the photographs of a split that a split before has under another name; `seen` are those so far."""
    for name, photo in photos_of(names).items():
        other_split, other = seen.setdefault(photo, (split, name))
        if other_split != split and other != name:
            problems.add(SHARED_PICTURE, f"{split}: {name} is the photograph {other} of {other_split}")


def photos_words(splits: Names) -> str:
    """A line that says how many images of a set are photographs with a number, and what shares them; else empty."""
    photos = [photo for names in splits.values() for photo in photos_of(names).values()]
    told = []
    for archive, title, others in (
        ("flickr", "Flickr", "Flickr8k(-CN), Flickr30k(-CN, -CNA)"),
        ("coco", "MS-COCO", "COCO-CN and other sets"),
    ):
        if count := sum(of == archive for of, _ in photos):
            told.append(f"{count:,} images are photographs of {title} by their names, which {others} have too")
    return f"{'; '.join(told)}: --against NAME=FOLDER counts those of another set" if told else ""


def check_against(splits: Names, other: str, others: Names, problems: Problems) -> Shared:
    """Count the photographs that the splits of one set share with those of another."""
    photos = {photo: (split, name) for split, names in others.items() for name, photo in photos_of(names).items()}
    shared: Shared = {}
    for split, names in splits.items():
        counts = dict.fromkeys(others, 0)
        for name, photo in photos_of(names).items():
            if photo in photos:
                of_split, its_name = photos[photo]
                counts[of_split] += 1
                problems.add(SHARED_PHOTO, f"{split}: {name} is {its_name} of {other} {of_split}")
        shared[split] = {of_split: count for of_split, count in counts.items() if count}
    return shared
