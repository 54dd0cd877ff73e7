"""One spelling for equal texts: width, blanks, control characters and, if wished, simplified characters."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import cache

from ccmb.errors import CcmbError

# Chinese punctuation that NFKC would write as ASCII, which Chinese text does not use.
_KEPT = "\uff0c\uff01\uff1f\uff1b\uff1a\uff08\uff09"  # , ! ? ; : ( ) of full width
_PARTS = re.compile(f"[^{_KEPT}]+")
# Zero-width characters, soft hyphens, marks of direction and variation, byte-order marks.
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")  # fmt: skip  # noqa: E501
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_BETWEEN_HAN = re.compile(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])")


def clean(text: str, simplified: bool = False) -> str:
    """The text with HTML entities and tags undone, letters and digits of ordinary width, one blank for any number, no
    invisible characters, and no blanks between letters that stand alone among Han.

    Args:
        simplified: write traditional characters as simplified ones, by the dictionary of OpenCC.

    Raises:
        CcmbError: OpenCC is wanted and not installed.
    """
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if not text.isascii():
        text = _PARTS.sub(lambda part: unicodedata.normalize("NFKC", part[0]), _INVISIBLE.sub("", text))
    text = _BLANKS.sub(" ", text).strip()
    if text.count(" ") > len(text) // 3:  # 红 色 帆 船
        text = _BETWEEN_HAN.sub("", text)
    return _converter()(text) if simplified and not text.isascii() else text


@cache
def _converter() -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ImportError:
        raise CcmbError("writing simplified characters needs opencc: pip install 'ccmb[corpus]'") from None
    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


_NOT_COMPARED = re.compile(r"[\W_]+")
_FILLED_IN = re.compile(r"[0-9a-z]+(?:[.\-][0-9a-z]+)*")


def bare(text: str) -> str:
    """Letters, digits and Han alone, in lower case: texts with equal ones are the same text."""
    return _NOT_COMPARED.sub("", text.lower())


def template(text: str) -> str | None:
    """The text with each run of digits and Latin letters written as #, or None if it has none."""
    masked, runs = _FILLED_IN.subn("#", text.lower())
    return masked if runs else None
