"""Model scores of the kept pairs: the cosine of image and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccmb.core.files import atomic_path
from ccmb.core.progress import progress
from ccmb.data.images.source import ImageSource

LOW_MODEL_SCORE = "model score too low"


class Scorer(Protocol):
    """A model with two towers.

    Attributes:
        name: the name that the user gave.
        fingerprint: identifies its weights and settings.
    """

    name: str
    fingerprint: str

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """(N, D), L2-normalised."""

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """(N, D), L2-normalised."""


def write_scores(filtered: Path, downloads: Path, scorer: Scorer, batch: int, out: Path) -> None:
    """Write a file of cosines for each part of the filtered pairs, with one row for each pair.

    The cosine of a dropped pair is null. Files that exist already are left as they are.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    parts = sorted(filtered.glob("part-*.parquet"))
    with progress("score", len(parts), "parts") as advance:
        for part in parts:
            if not (path := out / part.name).exists():
                table = parquet.read_table(part, columns=["row", "text", "reason"]).to_pydict()
                stays = np.array([reason is None for reason in table["reason"]], dtype=bool)
                cosines = np.zeros(len(stays), np.float32)
                rows = [row for row, kept in zip(table["row"], stays, strict=True) if kept]
                texts = [text for text, kept in zip(table["text"], stays, strict=True) if kept]
                cosines[stays] = _cosines(rows, texts, downloads / f"{part.stem}.tar", scorer, batch)
                with atomic_path(path) as temporary:
                    values = arrow.array(cosines, arrow.float32(), mask=~stays)
                    parquet.write_table(arrow.table({"model_score": values}), temporary, compression="zstd")
            advance(1)


def _cosines(rows: list[int], texts: list[str], tar: Path, scorer: Scorer, batch: int) -> NDArray[np.float32]:
    """(N,) cosines of N pairs. Pairs of an image follow one another."""
    if not rows:
        return np.zeros(0, np.float32)
    images = ImageSource.open(tar)
    distinct = list(dict.fromkeys(rows))
    index_of = {row: index for index, row in enumerate(distinct)}

    def load(row: int) -> Image.Image:
        return images.load(f"{row:09d}.jpg")

    images_PD = _in_batches(distinct, batch, lambda batch_rows: scorer.encode_images([load(row) for row in batch_rows]))
    texts_ND = _in_batches(texts, batch, scorer.encode_texts)
    cosines_N: NDArray[np.float32] = (images_PD[[index_of[row] for row in rows]] * texts_ND).sum(axis=1)
    return cosines_N


def _in_batches(items: list[Any], batch: int, encode: Any) -> NDArray[np.float32]:
    return np.concatenate([encode(items[at : at + batch]) for at in range(0, len(items), batch)])
