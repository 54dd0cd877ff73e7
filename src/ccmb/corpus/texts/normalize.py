"""How texts of a corpus are cleaned (`ccmb.core.text.cleaning`), and which form of them is compared."""

from __future__ import annotations

import re

from ccmb.core.text.cleaning import clean

__all__ = ["bare", "clean", "template"]

_NOT_COMPARED = re.compile(r"[\W_]+")
_FILLED_IN = re.compile(r"[0-9a-z]+(?:[.\-][0-9a-z]+)*")


def bare(text: str) -> str:
    """The letters, digits and Han of a text, in lower case. Texts with the same bare form count as equal."""
    return _NOT_COMPARED.sub("", text.lower())


def template(text: str) -> str | None:
    """The text with # for each run of digits and Latin letters; None if it has no such run."""
    masked, runs = _FILLED_IN.subn("#", text.lower())
    return masked if runs else None
