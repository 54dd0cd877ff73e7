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

KNOWN = 16  # texts of an image that are listed with its pair in a batch, the pair's own included


def text_key(text: str) -> str:
    """The form in which equal texts are equal strings."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def text_id(text: str) -> int:
    """An id in [0, 2**63) for the text; equal texts have equal ids, in every process."""
    return int.from_bytes(hashlib.blake2b(text_key(text).encode(), digest_size=8).digest()) >> 1


def known_texts(text: str, others: Iterable[int]) -> list[int]:
    """KNOWN text ids: first that of a pair's text, then those of its image's other texts; -1 fills the end."""
    own = text_id(text)
    ids = [own, *(other for other in dict.fromkeys(others) if other != own)][:KNOWN]
    return ids + [-1] * (KNOWN - len(ids))


def shared_texts(samples: Sequence[Sample]) -> dict[int, tuple[int, ...]]:
    """For each sample's index, the ids of its texts that another image has too."""
    image_of = {name: index for index, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
    id_T = np.array([text_id(text) for sample in samples for text in sample.texts], dtype=np.int64)
    sample_T = np.repeat(np.arange(len(samples)), [len(sample.texts) for sample in samples])
    image_T = np.array([image_of[sample.image] for sample in samples])[sample_T]
    # A text of one image counts once, however often it stands there.
    distinct_ids, counts = np.unique(np.unique(np.stack([id_T, image_T]), axis=1)[0], return_counts=True)
    shared_T = np.isin(id_T, distinct_ids[counts > 1])
    ids_of_sample: dict[int, list[int]] = {}
    for index, shared_id in zip(sample_T[shared_T].tolist(), id_T[shared_T].tolist(), strict=True):
        ids_of_sample.setdefault(index, []).append(shared_id)
    return {index: tuple(dict.fromkeys(ids)) for index, ids in ids_of_sample.items()}
