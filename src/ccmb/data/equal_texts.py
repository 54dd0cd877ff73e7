"""When two texts are equal, in training and in measuring alike.

What no tokenizer of Chinese models tells apart counts as equal: letters of either case, and how many blanks stand
between words or around the text. Everything else is another text: other punctuation, full or half width, traditional or
simplified characters.
"""

from __future__ import annotations

import hashlib
import unicodedata


def text_key(text: str) -> str:
    """The form in which equal texts are equal strings."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def text_number(text: str) -> int:
    """A number in [0, 2**63) for the text; equal texts have equal ones, in every process."""
    return int.from_bytes(hashlib.blake2b(text_key(text).encode(), digest_size=8).digest()) >> 1
