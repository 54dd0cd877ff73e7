"""One spelling for equal texts of a corpus and of queries.

Cleaning unifies width, blanks and control characters and, on request, writes simplified characters.
"""

from __future__ import annotations

import html
import re
import unicodedata
import warnings

from ccmb.core.errors import CcmbError
from ccmb.core.text.simplified import simplify

# Chinese punctuation that NFKC would replace by ASCII punctuation, which Chinese text does not use.
_KEPT = "\uff0c\uff01\uff1f\uff1b\uff1a\uff08\uff09"  # , ! ? ; : ( ) of full width
_PARTS = re.compile(f"[^{_KEPT}]+")
# Zero-width characters, soft hyphens, marks of direction and variation, byte-order marks.
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")  # fmt: skip  # noqa: E501
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_BETWEEN_HAN = re.compile(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])")


def clean(text: str, simplified: bool = False) -> str:
    """The cleaned text.

    HTML entities are decoded and tags removed. Letters and digits get ordinary width. Runs of blanks become one blank.
    Invisible characters are removed, and so are blanks between Han characters if blanks separate most characters.

    Args:
        simplified: whether to write traditional characters as simplified ones, see `simplify`.

    Raises:
        CcmbError: OpenCC is needed and not installed.
    """
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    text = visible(text)
    if text.count(" ") > len(text) // 3:  # 红 色 帆 船
        text = _BETWEEN_HAN.sub("", text)
    return simplify(text) if simplified else text


def visible(text: str) -> str:
    """The visible part of a text, with letters and digits of ordinary width and one blank for each run of blanks."""
    if not text.isascii():
        text = _PARTS.sub(lambda part: unicodedata.normalize("NFKC", part[0]), _INVISIBLE.sub("", text))
    return _BLANKS.sub(" ", text).strip()


# Hiragana, Katakana (full and half width) and Hangul.
_KANA_OR_HANGUL = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")


def clean_query(text: str) -> str:
    """A query in the spelling of the texts of a corpus. A query that consists of tags alone keeps them.

    Chinese becomes simplified; Japanese and Korean, which share characters with it, stay as they are written. Without
    OpenCC traditional characters stay; if there may be any, a warning tells so.
    """
    cleaned = clean(text) or visible(text)
    if _KANA_OR_HANGUL.search(cleaned):
        return cleaned
    try:
        return simplify(cleaned)
    except CcmbError:
        if any(_may_be_traditional(one) for one in cleaned):
            warnings.warn("traditional characters stay in the text: pip install opencc", stacklevel=2)
        return cleaned


def _may_be_traditional(one: str) -> bool:
    """Whether Big5 has the character and GB 2312 has not."""
    return bool(one.encode("big5", "ignore")) and not one.encode("gb2312", "ignore")
