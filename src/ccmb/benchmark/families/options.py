"""Options of `ccmb benchmark` that families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ccmb.core.options import Flag
from ccmb.tasks.options import PairOptions, PictureOptions

SplitOption = Annotated[str, Flag("Which split to score.")]


@dataclass(frozen=True, kw_only=True)
class PictureBenchOptions(PictureOptions):
    """Of data whose pictures lie beside it, in splits."""

    split: SplitOption = "test"


@dataclass(frozen=True, kw_only=True)
class PairBenchOptions(PictureBenchOptions, PairOptions):
    """Of pictures with texts of their own."""
