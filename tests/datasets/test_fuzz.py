"""Damaged data sets: whatever the bytes, a reader gives a data set with counted faults or one error of ours."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import UnreadableImageError
from ccmb.datasets import open_dataset
from ccmb.datasets.verify import checked_text, verify_dataset
from tests.helpers.downstream_samples import WRITERS

CASES = 500
# One set for each reader, with the split that is damaged.
READERS = {
    "icm": "train",
    "iqr": "train",
    "flickr30k-cna": "train",
    "flickr30k-cn": "train",
    "coco-cn": "test",
    "muge": "train",
    "aic-icc": "train",
    "ecommerce-t2i": "train",
    "imagenet": "val",
    "flickr8k-cn": "train",
    "xm3600": "test",
    "xtd10": "test",
    "flickr30k-200": "test",
    "xflickrco": "test",
    "multi30k": "val",
    "wit": "test",
}
DATA = (".json", ".jsonl", ".txt", ".tsv", ".gz", ".fr")
ODD_BYTES = [b"\x00", b"\n", b"\r", b"\t", b"#", b"\xff", b"\xef\xbb\xbf", b'"', b"{", b"[", b"{}", b"../", b"="]
ODD_BYTES += [b"\\ud83d", b"\xed\xa0\xbd", b"\xe2\x80\xa8"]
ODD_VALUES = [None, True, -1, 1.5, 10**40, "", " ", "\x00", "\ud83d", "../x", "#", "a\nb", "y" * 999]
ODD_VALUES += [[], {}, [[]], [None], {"a": [1]}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The sets as they should be, and the data files of the split with their bytes."""
    made = {}
    for name, split in READERS.items():
        folder = WRITERS[name](tmp_path_factory.mktemp(name) / "set")
        others = {"train", "val", "test"} - {split}
        paths = [path for path in sorted(folder.rglob("*")) if path.suffix in DATA]
        made[name] = folder, {p: p.read_bytes() for p in paths if not any(other in p.name for other in others)}
    return made


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, insertions, repetitions; those that JSON does not survive make up half."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        offset = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and offset < len(data):
            data[offset] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[offset:offset] = rng.choice(ODD_BYTES)
        elif kind == 2:
            del data[offset : offset + rng.choice([1, 3, 50])]
        elif kind == 3:
            data[offset:offset] = data[: rng.randrange(200)]
        elif rng.random() < 0.3:
            del data[offset:]
    return bytes(data)


def odd_value(value: object, rng: random.Random) -> object:
    """A JSON value with one of its inner values, or a key of it, replaced by something odd."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        return [*value[:index], odd_value(value[index], rng), *value[index + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        others = {other: value[other] for other in value if other != key}
        return others if rng.random() < 0.2 else {**others, key: odd_value(value[key], rng)}
    return rng.choice(ODD_VALUES)


def damaged(data: bytes, suffix: str, rng: random.Random) -> bytes:
    if suffix in (".json", ".jsonl") and rng.random() < 0.5:
        whole = data.startswith(b"[")
        values = [json.loads(data)] if whole else [json.loads(line) for line in data.splitlines()]
        index = rng.randrange(len(values))
        values[index] = odd_value(values[index], rng)
        return b"\n".join(json.dumps(value).encode() for value in values)
    return damaged_bytes(data, rng)


def check_message(error: CcmbError) -> None:
    """One line that any terminal takes, of bounded length."""
    message = str(error)
    message.encode()
    assert "\n" not in message
    assert len(message) < 2000


def use(name: str, folder: object, split: str) -> None:
    """What users do with a data set."""
    dataset = open_dataset(name, folder, split)
    assert dataset.samples or dataset.queries
    assert dataset.skipped.count() >= 0
    for sample in dataset.samples:
        assert sample.texts
        assert all(text.strip() for text in sample.texts)
        json.dumps([sample.image, *sample.texts], ensure_ascii=False).encode()
    for name in {*dataset.gallery, *(image for query in dataset.queries for image in query.images)}:
        try:
            assert dataset.images.load(name).mode == "RGB"
        except UnreadableImageError as error:
            check_message(error)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=CASES)
@given(seed=st.integers(0, 2**32))
def test_damage_is_an_error_of_ours_or_counted(name, folders, seed):
    folder, whole = folders[name]
    rng = random.Random(seed)
    path = rng.choice(list(whole))
    try:
        path.write_bytes(damaged(whole[path], path.suffix, rng))
        use(name, folder, READERS[name])
        if rng.random() < 0.2:
            checked_text(verify_dataset(name, folder)).encode()
    except CcmbError as error:
        check_message(error)
    finally:
        path.write_bytes(whole[path])


@pytest.mark.parametrize("name", ["icm", "muge", "aic-icc"])
def test_deep_nesting_is_a_counted_fault_or_an_error(name, folders):
    folder, whole = folders[name]
    for path in whole:
        for deep in (b"[" * 100_000, b'{"text":' * 100_000, b'{"label":' + b"[" * 900 + b"]" * 900 + b"}", b"9" * 9000):
            path.write_bytes(deep)
            try:
                use(name, folder, READERS[name])
            except CcmbError as error:
                check_message(error)
            finally:
                path.write_bytes(whole[path])
