"""When two texts are equal, in training and in measuring alike.

What no tokenizer of Chinese models tells apart counts as equal: letters of either case, and how many blanks stand
between words or around the text. Everything else is another text: other punctuation, full or half width, traditional or
simplified characters.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ccmb.data.sample import Sample

KNOWN = 16  # texts of a picture that its pair in a batch tells of, its own included


def text_key(text: str) -> str:
    """The form in which equal texts are equal strings."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def text_number(text: str) -> int:
    """A number in [0, 2**63) for the text; equal texts have equal ones, in every process."""
    return int.from_bytes(hashlib.blake2b(text_key(text).encode(), digest_size=8).digest()) >> 1


def known_texts(text: str, others: Iterable[int]) -> list[int]:
    """KNOWN numbers: that of a pair's text, then those of others that its picture has, as many as fit; -1 for none."""
    own = text_number(text)
    numbers = [own, *(number for number in dict.fromkeys(others) if number != own)][:KNOWN]
    return numbers + [-1] * (KNOWN - len(numbers))


def shared_texts(samples: Sequence[Sample]) -> dict[int, tuple[int, ...]]:
    """The numbers of those texts of each sample, by its place, that another image has too."""
    image_of = {name: number for number, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
    number_T = np.array([text_number(text) for sample in samples for text in sample.texts], dtype=np.int64)
    place_T = np.repeat(np.arange(len(samples)), [len(sample.texts) for sample in samples])
    image_T = np.array([image_of[sample.image] for sample in samples])[place_T]
    # A text of one image counts once, however often it stands there.
    numbers, counts = np.unique(np.unique(np.stack([number_T, image_T]), axis=1)[0], return_counts=True)
    shared_T = np.isin(number_T, numbers[counts > 1])
    found: dict[int, list[int]] = {}
    for place, number in zip(place_T[shared_T].tolist(), number_T[shared_T].tolist(), strict=True):
        found.setdefault(place, []).append(number)
    return {place: tuple(dict.fromkeys(of_sample)) for place, of_sample in found.items()}
