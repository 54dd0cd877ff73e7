"""Traditional Chinese written in simplified characters, by OpenCC, which is kept away from texts that are simplified.

OpenCC takes every text for a traditional one: of 乾县 (a county) it makes 干县, and of 昇腾 (a brand) 升腾, for 乾
and 昇 are traditional forms of 干 and 升. But simplified text has both, in names. So a text is converted only where
something in it is traditional and nothing is simplified; where both are, the traditional characters alone are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ccmb.core.errors import CcmbError

# Characters that OpenCC converts, and that the standard of simplified characters (通用规范汉字表, 2013) has too.
_BOTH = "乾吒夥徵拚捱摺於薹袷麴昇陞祕蒐谿氾剋脩榘旂"
# Words in which these are the traditional form all the same.
_TRADITIONAL_WORDS = (
    "乾(?=[杯洗果草燥冰柴旱枯涸糧粮淨净脆裂])|(?<=[餅饼曬晒吹烘風风擦豆肉])乾"
    "|夥(?=[伴計计])|(?<=[大一同合入團])夥|徵(?=[求收兵稅税信文集婚召])|(?<=[象特])徵"
    "|於(?![期菟潜陵戏])|(?<=[上提])昇|昇(?=[降級级])|祕(?=[密書书])|(?<=[神奧])祕|脩(?=改)|藉(?=[口由助])|瞭(?=解)"
)
_OF_WORDS = {"藉": "借", "瞭": "了"}  # that OpenCC converts in words alone
# What of GB 2312, a set of simplified characters, may have to be converted; of most texts nothing more need be asked.
_ASKED = frozenset((*_BOTH, *"後菸醣麽", *_OF_WORDS))
_FIRST, _END = 0x3400, 0xA000  # Han of the first plane


@dataclass(frozen=True, slots=True)
class _Tables:
    """What there is to know of single characters.

    Attributes:
        convert: a whole text, by OpenCC's dictionary of words.
        traditional: characters, and words of `_BOTH`, that simplified text has not.
        simplified: characters that traditional text has not.
        of: the simplified form of each traditional character.
    """

    convert: Callable[[str], str]
    traditional: re.Pattern[str]
    simplified: re.Pattern[str]
    of: dict[str, str]


def simplify(text: str) -> str:
    """The text in simplified characters; one that is simplified comes back as it is.

    Raises:
        CcmbError: OpenCC is not installed.
    """
    if _is_simplified(text):
        return text
    tables = _tables()
    if not tables.traditional.search(text):
        return text
    if not tables.simplified.search(text):
        return tables.convert(text)
    return tables.traditional.sub(lambda found: tables.of[found[0]], text)


def _is_simplified(text: str) -> bool:
    try:
        text.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return _ASKED.isdisjoint(text)


@cache
def _tables() -> _Tables:
    try:
        from opencc import OpenCC
    except ImportError:
        raise CcmbError("writing simplified characters needs opencc: pip install 'ccmb[corpus]'") from None
    convert: Callable[[str], str] = OpenCC("t2s").convert
    every = [chr(code) for code in range(_FIRST, _END)]
    # Line breaks keep them apart: OpenCC looks for words.
    of = {one: its for one, its in zip(every, convert("\n".join(every)).split("\n"), strict=True) if its != one}
    back = zip(every, OpenCC("s2t").convert("\n".join(every)).split("\n"), strict=True)
    simple = [one for one, its in back if its != one and one not in of and not _in_big5(one)]
    traditional = [one for one in of if one not in _BOTH]
    return _Tables(
        convert,
        re.compile(f"[{''.join(traditional)}]|{_TRADITIONAL_WORDS}"),
        re.compile(f"[{''.join(simple)}]"),
        of | _OF_WORDS,
    )


def _in_big5(one: str) -> bool:
    """Whether traditional text may have it, as it has 后 and 里."""
    try:
        one.encode("big5")
    except UnicodeEncodeError:
        return False
    return True
