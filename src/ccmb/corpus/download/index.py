"""The index of a folder of downloads, as the later steps read it: near-duplicates, shards, reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccmb.core.errors import CcmbError
from ccmb.data.images.perceptual_hash import COLOUR_BYTES, ImageFingerprints


def read_index(out: Path, columns: Sequence[str] | None = None, with_image: bool = False) -> Any:
    """The rows of all finished parts as a `pyarrow.Table`, in order; see `ccmb.corpus.download.parts.DownloadRow`.

    Args:
        columns: the columns to read; None: all.
        with_image: whether to read only rows whose image is stored.

    Raises:
        CcmbError: there is no finished part.
    """
    from pyarrow import concat_tables
    from pyarrow import parquet as files

    paths = [path for path in sorted(out.glob("part-*.parquet")) if not path.with_suffix(".rows").exists()]
    if not paths:
        raise CcmbError(f"{out}: no finished part of a download")
    filters = [("status", "==", "ok")] if with_image else None
    wanted = None if columns is None else list(columns)
    return concat_tables(files.read_table(path, columns=wanted, filters=filters) for path in paths)


def fingerprints_of_index(table: Any) -> ImageFingerprints:
    """The fingerprints of the images of N rows, each of which has a stored image."""
    [colours] = table.select(["colours"]).combine_chunks()["colours"].chunks or [None]
    if colours is None:
        return ImageFingerprints(np.zeros(0, np.uint64), np.zeros((0, COLOUR_BYTES), np.uint8))
    values = np.frombuffer(colours.buffers()[1], np.uint8).reshape(-1, COLOUR_BYTES)
    return ImageFingerprints(table["shape"].to_numpy(), values[colours.offset : colours.offset + len(colours)])
