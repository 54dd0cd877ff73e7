"""Random subsets by hash. A smaller subset lies within a larger one, and every machine samples the same images.

Each image has a sample position in [0, 1): the 64-bit XXH3 hash of its ImageKey, with the seed. A subset of a tenth
holds the images whose position is below 0.1. So 2.3M images are sampled from 23M, as in Zero, and a corpus that
grows keeps its subsets. The column of the position is called `place`.
"""

from __future__ import annotations

import daft
from daft import DataFrame, DataType, Expression, col
from daft import functions as F

from ccmb.core.errors import UsageError
from ccmb.corpus.base.daft_engine import hashed

POSITION_BITS = 53  # a float64 holds so many bits exactly


def sample_position(hashes: Expression) -> Expression:
    """A 64-bit hash as a position in [0, 1)."""
    upper = F.shift_right(hashes, daft.lit(64 - POSITION_BITS).cast(DataType.uint64()))
    return upper.cast(DataType.float64()) / float(2**POSITION_BITS)


def with_sample_positions(frame: DataFrame, seed: int) -> DataFrame:
    """Add the column `place`: the sample position of the image_key."""
    return frame.with_column("place", sample_position(hashed("image_key", seed=seed)))


def subset(frame: DataFrame, share: float) -> DataFrame:
    """The pairs of about a share of the images.

    Raises:
        UsageError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a subset of {share}: give a share greater than 0 and at most 1")
    return frame.where(col("place") < share)
