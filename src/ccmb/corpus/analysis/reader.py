"""A finished corpus read back: its index, part by part, and its samples as the index has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.corpus.assembly.write_shards import INDEX

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class IndexedPicture:
    """A picture that is in a shard, and its pairs.

    Attributes:
        row: of the index of pictures, as `ccmb.corpus.assembly.write_shards.pictures_schema` has it.
        pairs: rows of the index of pairs that stay, in their order.
    """

    row: Row
    pairs: list[Row]

    @property
    def texts(self) -> dict[str, list[str]]:
        """By field, as they stand in the shard."""
        found: dict[str, list[str]] = {}
        for pair in self.pairs:
            found.setdefault(pair["field"], []).append(pair["text"])
        return found


def index_parts(out: Path, kind: str) -> list[Path]:
    """
    Args:
        kind: "pictures" or "pairs".

    Raises:
        CcmbError: there is none.
    """
    found = sorted((out / INDEX).glob(f"{kind}-*.parquet"))
    if not found:
        raise CcmbError(f"{out / INDEX}: no {kind}-*.parquet; is {out} a corpus?")
    return found


def read_part(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """
    Raises:
        CcmbError: it cannot be read.
    """
    from pyarrow import ArrowException, parquet

    try:
        found: list[Row] = parquet.read_table(path, columns=None if columns is None else list(columns)).to_pylist()
    except (OSError, ArrowException, KeyError) as error:
        raise CcmbError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); remove it and build again"
        ) from None
    return found


def indexed_pictures(out: Path) -> Iterator[IndexedPicture]:
    """All pictures that are in shards, in their order, a part in memory at a time."""
    for of_pictures in index_parts(out, "pictures"):
        pairs: dict[int, list[Row]] = {}
        for pair in read_part(of_pictures.with_name(of_pictures.name.replace("pictures-", "pairs-"))):
            if pair["reason"] is None:
                pairs.setdefault(pair["row"], []).append(pair)
        for row in read_part(of_pictures):
            if row["shard"] is not None:
                yield IndexedPicture(row, pairs.get(row["row"], []))
