"""What a model says of each pair that stays: the cosine of its picture and its text."""

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
        name: what the user calls it.
        fingerprint: of its weights and settings.
    """

    name: str
    fingerprint: str

    def encode_images(self, pictures: list[Image.Image]) -> NDArray[np.float32]:
        """(N, D), L2-normalised."""

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """(N, D), L2-normalised."""


def write_scores(judged: Path, downloads: Path, scorer: Scorer, batch: int, out: Path) -> None:
    """For each part of the judged pairs a file of their cosines, one a row, null where a pair is dropped; parts that
    are there already are left."""
    import pyarrow as arrow
    from pyarrow import parquet

    parts = sorted(judged.glob("part-*.parquet"))
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
    """(N,) of N pairs, whose pictures come one after the other."""
    if not rows:
        return np.zeros(0, np.float32)
    pictures = ImageSource.open(tar)
    distinct = list(dict.fromkeys(rows))
    place = {row: number for number, row in enumerate(distinct)}

    def load(row: int) -> Image.Image:
        return pictures.load(f"{row:09d}.jpg")

    images_PD = _in_batches(distinct, batch, lambda of: scorer.encode_images([load(row) for row in of]))
    texts_ND = _in_batches(texts, batch, scorer.encode_texts)
    found: NDArray[np.float32] = (images_PD[[place[row] for row in rows]] * texts_ND).sum(axis=1)
    return found


def _in_batches(items: list[Any], batch: int, encode: Any) -> NDArray[np.float32]:
    return np.concatenate([encode(items[at : at + batch]) for at in range(0, len(items), batch)])
