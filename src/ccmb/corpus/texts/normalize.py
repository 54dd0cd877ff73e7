"""How texts of a corpus are cleaned (`ccmb.core.text.cleaning`), and what cleaned texts are compared by."""

from __future__ import annotations

import re

from ccmb.core.text.cleaning import clean

__all__ = ["bare", "clean", "template"]

_NOT_COMPARED = re.compile(r"[\W_]+")
_FILLED_IN = re.compile(r"[0-9a-z]+(?:[.\-][0-9a-z]+)*")


def bare(text: str) -> str:
    """Letters, digits and Han alone, in lower case: texts with equal ones are the same text."""
    return _NOT_COMPARED.sub("", text.lower())


def template(text: str) -> str | None:
    """The text with each run of digits and Latin letters written as #, or None if it has none."""
    masked, runs = _FILLED_IN.subn("#", text.lower())
    return masked if runs else None
