"""Packs of images: tsv files of an id, a tab, and the image in base64, in the plain or the URL-safe alphabet.

A pack is read once to index its images. An image is decoded only when it is needed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.core.text.forms import refuse_other_kinds
from ccmb.data.images.source import MAX_BYTES, Extent, ImageSource, inner_name
from ccmb.datasets.formats.lenient_lines import BOM
from ccmb.datasets.problems import BAD_LINE, REPEATED_ID, Problems

MAX_ID = 1000
_BLOCK = 2**20
_PLAIN = bytes.maketrans(b"-_", b"+/")


class PackedImages(ImageSource):
    """The images of some packs by id. If several have the same id, the first one counts."""

    def __init__(self, path: Path, packs: Sequence[Path], problems: Problems) -> None:
        """Index the packs.

        Args:
            path: the path for messages.
            problems: counts the faulty lines.

        Raises:
            CcmbError: a pack cannot be read at all.
        """
        super().__init__(path)
        self._extents: dict[str, Extent] = {}
        for pack in packs:
            for where, name, extent in _read_pack(pack, problems):
                if name in self._extents:
                    problems.add(REPEATED_ID, f"{where}: image {name} occurs twice")
                else:
                    self._extents[name] = extent

    @cached_property
    def names(self) -> list[str]:
        return sorted(self._extents)

    def _find(self, name: str) -> Extent | None:
        return self._extents.get(name)

    def raw(self, name: str) -> bytes:
        """The image's bytes.

        Raises:
            UnreadableImageError: the image does not exist, or is not base64.
        """
        text = b"".join(super().raw(name).split()).translate(_PLAIN).rstrip(b"=")
        try:
            return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error as error:
            raise self._unreadable(name, f"not base64 ({error})") from None


def _read_pack(path: Path, problems: Problems) -> Iterator[tuple[str, str, Extent]]:
    """Each image as (where, id, extent of its base64)."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file, progress(f"index {path.name}", size, "bytes") as advance:
            if _is_packed(file, path):
                raise CcmbError(f"{path}: is packed with gzip; unpack it first")
            done = 0
            for line_number, head, start, end in _lines(file):
                advance(end - done)
                done = end
                where = f"{path}:{line_number}"
                key, tab, _ = head.partition(b"\t")
                first = start + len(key) + 1
                name = key.removeprefix(BOM if line_number == 1 else b"").strip().decode("utf-8", "replace")
                if not tab:
                    problems.add(BAD_LINE, f"{where}: no tab between id and image")
                elif inner_name(name) != name or "\ufffd" in name:
                    problems.add(BAD_LINE, f"{where}: no id that can serve as a name")
                elif end - first > MAX_BYTES:
                    problems.add(BAD_LINE, f"{where}: {end - first:,} bytes are more than the {MAX_BYTES:,} allowed")
                elif end == first:
                    problems.add(BAD_LINE, f"{where}: no image after the tab")
                else:
                    yield where, name, Extent(str(path), first, end - first)
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None


def _is_packed(file: IO[bytes], path: Path) -> bool:
    """Whether a file is packed with gzip.

    Raises:
        CcmbError: it is another kind of file.
    """
    head = file.read(512)
    file.seek(0)
    refuse_other_kinds(head, str(path))
    return head.startswith(b"\x1f\x8b")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, int, int]]:
    """Each line that is not blank, as (number, first bytes, start, end), without its line break."""
    line_number = start = 0
    while block := file.readline(_BLOCK):
        line_number, head, size, tail = line_number + 1, block[: MAX_ID + 1], len(block), block[-2:]
        while not block.endswith(b"\n") and len(block) == _BLOCK:
            if block := file.readline(_BLOCK):
                size, tail = size + len(block), (tail + block[-2:])[-2:]
        end = start + size - (2 if tail == b"\r\n" else 1 if tail.endswith(b"\n") else 0)
        if end - start > len(head) or head[: end - start].strip():
            yield line_number, head[: end - start], start, end
        start += size
