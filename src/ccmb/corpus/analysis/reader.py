"""Read a finished corpus: its index, part by part, and its images with their pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.corpus.assembly.write_shards import INDEX

IndexRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image that is in a shard, and its pairs.

    Attributes:
        row: its row of the index, with the columns of `ccmb.corpus.assembly.schema.images_schema`.
        pairs: the index rows of its kept pairs, in order.
    """

    row: IndexRow
    pairs: list[IndexRow]

    @property
    def texts(self) -> dict[str, list[str]]:
        """The texts by field, as the shard holds them."""
        texts: dict[str, list[str]] = {}
        for pair in self.pairs:
            texts.setdefault(pair["field"], []).append(pair["text"])
        return texts


def index_parts(out: Path, kind: str) -> list[Path]:
    """The files of the index of images or pairs, in order.

    Args:
        kind: "pictures" or "pairs".

    Raises:
        CcmbError: there is no such file.
    """
    parts = sorted((out / INDEX).glob(f"{kind}-*.parquet"))
    if not parts:
        raise CcmbError(f"{out / INDEX}: no {kind}-*.parquet; is {out} a corpus?")
    return parts


def read_part(path: Path, columns: Sequence[str] | None = None) -> list[IndexRow]:
    """The rows of a file of the index.

    Raises:
        CcmbError: the file cannot be read.
    """
    from pyarrow import ArrowException, parquet

    try:
        rows: list[IndexRow] = parquet.read_table(path, columns=None if columns is None else list(columns)).to_pylist()
    except (OSError, ArrowException, KeyError) as error:
        raise CcmbError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); remove it and build again"
        ) from None
    return rows


def indexed_images(out: Path) -> Iterator[IndexedImage]:
    """All images that are in shards, in order, with one part in memory at a time."""
    for images_part in index_parts(out, "pictures"):
        pairs: dict[int, list[IndexRow]] = {}
        for pair in read_part(images_part.with_name(images_part.name.replace("pictures-", "pairs-"))):
            if pair["reason"] is None:
                pairs.setdefault(pair["row"], []).append(pair)
        for row in read_part(images_part):
            if row["shard"] is not None:
                yield IndexedImage(row, pairs.get(row["row"], []))
