"""Pictures that a corpus must not hold: those of test sets, by their looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ccmb.data.images.source import ImageSource


@dataclass(frozen=True, slots=True)
class HeldOutPictures:
    """Pictures that a corpus must not hold, such as those of a downstream test set.

    Attributes:
        name: what the user calls them.
        names: of those that count; None for all.
    """

    name: str
    pictures: ImageSource
    names: Sequence[str] | None = None
