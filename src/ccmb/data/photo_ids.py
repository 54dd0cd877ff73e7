"""Photograph ids: the numbers that Flickr or MS-COCO gave to photographs, read from the file names of data sets.

| data set | file name | photograph |
| --- | --- | --- |
| Flickr8k | `1000268201_693b08cb0e.jpg`, a number and ten hexadecimal digits | Flickr 1000268201 |
| Flickr30k | `1000092795.jpg`, the number alone | Flickr 1000092795 |
| MS-COCO 2014 | `COCO_train2014_000000123456.jpg` | COCO 123456 |
| MS-COCO 2017 | `000000123456.jpg`, twelve digits that begin with zeros | COCO 123456 |

Flickr30k contains Flickr8k, and their splits differ: one trains on what the other tests on. File names of other forms
give no id. A bare number counts as a Flickr id only if most bare numbers of the set are as long as Flickr's, since
products and merely numbered images have numbers too.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from typing import Literal

Archive = Literal["flickr", "coco"]
Photo = tuple[Archive, int]

_FLICKR = re.compile(r"(\d{4,11})_[0-9a-f]{10}(?:_[a-z])?")
_COCO = re.compile(r"coco_(?:train|val|test)\d{4}_(\d{12})|(0{3,}\d+)")
_NUMBER = re.compile(r"[1-9]\d{3,10}")
_DIGITS = 8  # of a Flickr number, but for the oldest


def photos_of(names: Iterable[str]) -> dict[str, Photo]:
    """The photograph of each image, by the image's name; images whose name gives no id are left out."""
    photos: dict[str, Photo] = {}
    bare_numbers: dict[str, int] = {}
    for name in names:
        stem = name.replace("\\", "/").rpartition("/")[2].partition(".")[0].lower()
        if match := _FLICKR.fullmatch(stem):
            photos[name] = "flickr", int(match[1])
        elif (match := _COCO.fullmatch(stem)) and (match[1] or len(stem) == 12):
            photos[name] = "coco", int(match[1] or match[2])
        elif _NUMBER.fullmatch(stem):
            bare_numbers[name] = int(stem)
    if bare_numbers and statistics.median(len(str(photo_id)) for photo_id in bare_numbers.values()) >= _DIGITS:
        photos |= {name: ("flickr", photo_id) for name, photo_id in bare_numbers.items()}
    return photos
