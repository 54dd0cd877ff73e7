"""Random subsets by hash: the smaller one lies in the larger, and any machine draws the same.

A picture's place in [0, 1) is the 64-bit XXH3 hash of its ImageKey, with the seed; a subset of a tenth is what is below
0.1. So 2.3M pictures are drawn within 23M, as those of Zero are, and a corpus that grows keeps its subsets.
"""

from __future__ import annotations

import daft
from daft import DataFrame, DataType, Expression, col
from daft import functions as F

from ccmb.core.errors import UsageError
from ccmb.corpus.base.daft_engine import hashed

PLACE_BITS = 53  # that a float64 holds exactly


def place_of(hashes: Expression) -> Expression:
    """A 64-bit hash as a number in [0, 1)."""
    upper = F.shift_right(hashes, daft.lit(64 - PLACE_BITS).cast(DataType.uint64()))
    return upper.cast(DataType.float64()) / float(2**PLACE_BITS)


def with_places(frame: DataFrame, seed: int) -> DataFrame:
    """Add `place`, by image_key."""
    return frame.with_column("place", place_of(hashed("image_key", seed=seed)))


def subset(frame: DataFrame, share: float) -> DataFrame:
    """The pairs of about that share of the pictures.

    Raises:
        UsageError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a subset of {share}: give a share greater than 0 and at most 1")
    return frame.where(col("place") < share)
