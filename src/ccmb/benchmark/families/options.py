"""Options of `ccmb benchmark` that families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ccmb.core.options import Flag
from ccmb.tasks.options import ImageOptions, PairOptions

SplitOption = Annotated[str, Flag("Which split to score.")]


@dataclass(frozen=True, kw_only=True)
class ImageBenchOptions(ImageOptions):
    """Options of data with splits, whose images lie beside it."""

    split: SplitOption = "test"


@dataclass(frozen=True, kw_only=True)
class PairBenchOptions(ImageBenchOptions, PairOptions):
    """Options of images with texts of their own."""
