"""What a set is, in one number: results are compared with each other only where it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ccmb.data.pictures import Pictures, UnreadablePicture
from ccmb.progress import progress
from ccmb.samples import Sample


def revision(samples: Sequence[Sample], told: bytes, pictures: Pictures) -> str:
    """Hexadecimal SHA-256 of what is told of all samples together, and of each one's name, picture and texts."""
    digest, bytes_of = hashlib.sha256(told), dict[str, bytes]()
    with progress("read pictures", len(samples), "pictures") as advance:
        for sample in samples:
            if sample.image not in bytes_of:
                bytes_of[sample.image] = hashlib.sha256(_raw(pictures, sample.image)).digest()
            for part in (sample.image.encode(), bytes_of[sample.image], *map(str.encode, sample.texts)):
                digest.update(len(part).to_bytes(8, "big") + part)
            digest.update(b"\n")
            advance(1, "")
    return digest.hexdigest()


def _raw(pictures: Pictures, name: str) -> bytes:
    try:
        return pictures.raw(name)
    except UnreadablePicture:
        return b""
