"""The photographs that a model has been trained on: a small file beside its weights, copied wherever they are copied.

{"read": [{"set": "flickr8k-cn", "split": "train", "images": 6000, "photographs": 6000}, ...],
 "flickr": [1000268201, ...], "coco": [...]}

`read` lists the data sets of the run itself and of the runs that it started from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json
from ccmb.data.photo_ids import Archive, Photo, photos_of

FILE = "seen_images.json"


@dataclass(frozen=True, slots=True)
class Read:
    """One data set that was trained on.

    Attributes:
        images: how many; None if they were not counted, as with shards or a model that somebody else trained.
        photographs: how many of these have a file name that gives a photograph's id; None if nobody looked.
    """

    set: str
    split: str | None = None
    images: int | None = None
    photographs: int | None = None

    @property
    def name(self) -> str:
        return f"{self.set} {self.split}" if self.split else self.set


@dataclass(frozen=True, slots=True)
class SeenImages:
    """The data that a model has been trained on, as far as it is recorded."""

    read: tuple[Read, ...] = ()
    photos: frozenset[Photo] = field(default_factory=frozenset)

    def __or__(self, other: SeenImages) -> SeenImages:
        return SeenImages(tuple(dict.fromkeys([*self.read, *other.read])), self.photos | other.photos)

    def among(self, names: Iterable[str]) -> list[str]:
        """The images that show photographs which the model has been trained on."""
        return [name for name, photo in photos_of(names).items() if photo in self.photos]

    def write(self, folder: Path) -> None:
        """Write the record into a folder; an empty record is not written."""
        if self.read:
            ids = {
                archive: sorted(photo_id for photo_archive, photo_id in self.photos if photo_archive == archive)
                for archive in get_args(Archive)
            }
            write_json(folder / FILE, {"read": [asdict(read) for read in self.read], **ids})


def seen_in(name: str, split: str | None, names: Iterable[str]) -> SeenImages:
    """The record of one training set, by the names of its images."""
    unique = list(dict.fromkeys(names))
    photos = photos_of(unique)
    return SeenImages((Read(name, split, len(unique), len(photos)),), frozenset(photos.values()))


def read_seen(folder: Path) -> SeenImages | None:
    """The record in a folder; None where there is none.

    Raises:
        CcmbError: it is damaged; the message names it.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    values = read_json(path)
    try:
        photos = {(archive, int(photo_id)) for archive in get_args(Archive) for photo_id in values[archive]}
        return SeenImages(tuple(Read(**entry) for entry in values["read"]), frozenset(photos))
    except (KeyError, TypeError, ValueError):
        raise CcmbError(f"{path}: no record of the images that a model has seen; take the one of the model") from None


def seen_mark_text(count: int) -> str:
    """The mark of a result on images that the model was trained on; empty if there are none."""
    return f"saw {count} test images" if count else ""


def seen_mark(seen: SeenImages | None, names: Iterable[str]) -> dict[str, Any] | None:
    """What a report says about the test images that a model was trained on; None for a model without a record.

    It gives their count, the mark, and the data sets that the model was trained on.
    """
    if seen is None:
        return None
    count = len(seen.among(names))
    return {"images": count, "mark": seen_mark_text(count), "read": [read.name for read in seen.read]}


def seen_warning(mark: Mapping[str, Any] | None) -> str:
    """A line of warning about a marked result; empty for other results."""
    if not mark or not mark["images"]:
        return ""
    return f"{mark['mark']}: it was trained on these photographs, which {', '.join(mark['read'])} contain"
