"""Photographs known by the numbers in their file names, whatever data set they come in."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError
from ccmb.data.photo_ids import photos_of
from ccmb.data.seen_images import FILE, Read, SeenImages, read_seen, seen_in, seen_mark


def one(name: str) -> object:
    return photos_of([name]).get(name)


def test_flickr8k_and_flickr30k_name_the_same_photograph() -> None:
    names = ("1000268201_693b08cb0e.jpg", "1000268201.jpg", "flickr30k-images/1000268201.jpg", "./1000268201.JPG",
             "Images\\1000268201_693b08cb0e.png", "1000268201", "1000268201_693b08cb0e", "1000268201_693b08cb0e.jpg.1",
             "1000268201_693b08cb0e_o.jpg", "1000268201.jpg.webp")  # fmt: skip
    assert {one(name) for name in names} == {("flickr", 1000268201)}


def test_all_releases_of_coco_name_the_same_photograph() -> None:
    names = (
        "COCO_train2014_000000123456.jpg",
        "COCO_val2014_000000123456",
        "000000123456.jpg",
        "train2017/000000123456.jpg",
    )
    assert {one(name) for name in names} == {("coco", 123456)}


@pytest.mark.parametrize(
    "name",
    ["0.png", "12.jpg", "cat.jpg", "IMG_20240101_123456.jpg", "20240101_123456.jpg", "1000268201_abc.jpg", "4211.jpg",
     "train-000001.jpg", "0001.jpg", "123456789012345.jpg", "3f2a9c.jpg", "", ".jpg", "1000268201_693b08cb0e1.jpg"],
)  # fmt: skip
def test_other_names_tell_of_no_photograph(name: str) -> None:
    assert one(name) is None


def test_old_short_numbers_count_where_most_are_as_long_as_flickrs() -> None:
    flickr30k = ["36979.jpg", *(f"{1000092795 + 7 * position}.jpg" for position in range(9))]
    assert photos_of(flickr30k)["36979.jpg"] == ("flickr", 36979)
    assert photos_of([f"{10000 + position}.jpg" for position in range(50)]) == {}  # counted, not photographed


def test_a_record_says_what_was_read_and_is_read_back(tmp_path: Path) -> None:
    seen = seen_in("flickr8k-cn", "train", ["1000268201_693b08cb0e.jpg", "COCO_train2014_000000000009.jpg", "a.png"])
    assert seen.read == (Read("flickr8k-cn", "train", 3, 2),)
    both = seen | SeenImages((Read("OFA-Sys/model"),)) | seen
    assert [item.name for item in both.read] == ["flickr8k-cn train", "OFA-Sys/model"]
    both.write(tmp_path)
    assert read_seen(tmp_path) == both
    names = ["1000268201.jpg", "1000092795.jpg", "000000000009.jpg"]
    assert both.among(names) == ["000000000009.jpg", "1000268201.jpg"]
    assert seen_mark(both, names) == {
        "images": 2, "mark": "saw 2 test images", "read": ["flickr8k-cn train", "OFA-Sys/model"],
    }  # fmt: skip
    assert seen_mark(both, ["1000092795.jpg"]) == {
        "images": 0, "mark": "", "read": ["flickr8k-cn train", "OFA-Sys/model"],
    }  # fmt: skip
    assert seen_mark(None, names) is None
    (tmp_path / FILE).write_text('{"read": [{"name": 1}]}')
    with pytest.raises(CcmbError, match=r"seen_images\.json: no record"):
        read_seen(tmp_path)
    assert read_seen(tmp_path / "nowhere") is None
