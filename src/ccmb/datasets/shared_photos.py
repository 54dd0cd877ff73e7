"""Photographs that two splits or two data sets share, recognised by the numbers in their file names.

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
from ccmb.datasets.problems import SHARED_IMAGE, SHARED_PHOTO, Problems
from ccmb.datasets.registry import open_dataset

# Names of images by split.
Names = Mapping[str, Iterable[str]]
# For each split of a set, how many images it shares with each split of another set.
Shared = dict[str, dict[str, int]]


def names_of_set(spec: str) -> tuple[str, dict[str, list[str]]]:
    """The name of a set, and the names of its images by split. The images of custom pairs need not exist.

    Args:
        spec: NAME=FOLDER of a published set, a file of custom pairs, or NAME=PAIRS.jsonl.

    Raises:
        UsageError: the spec has none of these forms.
        CcmbError: the set cannot be read.
    """
    name, _, location = ("", "", spec) if Path(spec).exists() else spec.partition("=")
    path = Path(location)
    if path.is_file():
        names: dict[str, list[str]] = {}
        for line_number, line in read_json_lines(path):
            if not isinstance(line.get("image"), str):
                raise CcmbError(f'{path}:{line_number}: no "image": each line needs the name of its image')
            names.setdefault(str(line.get("split", "train")), []).append(image_key(str(line["image"])))
        return name or path.resolve().parent.name, {
            split: list(dict.fromkeys(image_names)) for split, image_names in names.items()
        }
    if not name or not location or not path.is_dir():
        raise UsageError(f"--against {spec}: give NAME=FOLDER of a data set, or a file of pairs")
    card, splits = find_card(name), dict[str, list[str]]()
    for published in card.splits:
        try:
            splits[published.name] = open_dataset(name, path, published.name).gallery
        except MissingFile:
            continue
    if not splits:
        raise CcmbError(f"{path}: the folder has no split of {card.title}")
    return name, splits


def check_across_splits(
    split: str, names: Iterable[str], seen: dict[Photo, tuple[str, str]], problems: Problems
) -> None:
    """Count the photographs of a split that an earlier split has under another name.

    Args:
        seen: split and name of the photographs so far; those of this split are added.
    """
    for name, photo in photos_of(names).items():
        other_split, other = seen.setdefault(photo, (split, name))
        if other_split != split and other != name:
            problems.add(SHARED_IMAGE, f"{split}: {name} is the photograph {other} of {other_split}")


def photos_words(splits: Names) -> str:
    """A line with the number of images that are numbered photographs, and the sets that share them; empty if none."""
    photos = [photo for names in splits.values() for photo in photos_of(names).values()]
    clauses = []
    for archive, title, others in (
        ("flickr", "Flickr", "Flickr8k(-CN), Flickr30k(-CN, -CNA, -200), Multi30k, xFlickr&CO"),
        ("coco", "MS-COCO", "COCO-CN, XTD10, xFlickr&CO and other sets"),
    ):
        if count := sum(photo_archive == archive for photo_archive, _ in photos):
            clauses.append(f"{count:,} images are photographs of {title} by their names, which {others} have too")
    return f"{'; '.join(clauses)}: --against NAME=FOLDER counts those of another set" if clauses else ""


def check_against(splits: Names, other: str, others: Names, problems: Problems) -> Shared:
    """Count the photographs that the splits of one set share with those of another."""
    photos = {photo: (split, name) for split, names in others.items() for name, photo in photos_of(names).items()}
    shared: Shared = {}
    for split, names in splits.items():
        counts = dict.fromkeys(others, 0)
        for name, photo in photos_of(names).items():
            if photo in photos:
                other_split, its_name = photos[photo]
                counts[other_split] += 1
                problems.add(SHARED_PHOTO, f"{split}: {name} is {its_name} of {other} {other_split}")
        shared[split] = {other_split: count for other_split, count in counts.items() if count}
    return shared
