"""The pairs of a corpus image by image, in the order of `build_pairs`: by the hash of the URL.

So equal URLs stand together, hosts are mixed, and the links of a download need no other order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.corpus.download.parts import Link


@dataclass(slots=True)
class ImageTexts:
    """An image's URL and key, and the rows of its texts with the columns `ccmb.corpus.pairs.build.COLUMNS`."""

    url: str
    key: str
    texts: list[dict[str, Any]]


def read_image_texts(pairs: Path) -> Iterator[ImageTexts]:
    """All images of a `pairs.parquet`, with only some rows in memory at a time."""
    for url, rows in itertools.groupby(_rows(pairs), lambda row: row["image_url"]):
        texts = list(rows)
        yield ImageTexts(url, texts[0]["image_key"], texts)


def read_links(pairs: Path) -> Iterator[Link]:
    """The link of each image, in the same order."""
    for url, rows in itertools.groupby(_rows(pairs, ["image_url", "image_key"]), lambda row: row["image_url"]):
        yield Link(next(rows)["image_key"], url)


def count_links(pairs: Path) -> int:
    """The number of links.

    Raises:
        CcmbError: there is no link.
    """
    count = sum(1 for _ in read_links(pairs))
    if not count:
        raise CcmbError(f"{pairs}: no pair is left; see what dropped them in {pairs.parent / 'funnel.json'}")
    return count


def _rows(pairs: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    for path in sorted(pairs.glob("*.parquet")):
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192, columns=columns):
                yield from batch.to_pylist()
