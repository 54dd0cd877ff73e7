"""Images that a corpus must not hold: those of test sets, recognised by their fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ccmb.data.images.source import ImageSource


@dataclass(frozen=True, slots=True)
class HeldOutImages:
    """Images that a corpus must not hold, such as those of a downstream test set.

    Attributes:
        name: the name that the user gave.
        names: which of the images count; None: all.
    """

    name: str
    images: ImageSource
    names: Sequence[str] | None = None
