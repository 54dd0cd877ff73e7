"""Traditional Chinese in simplified characters, by OpenCC, which must not convert texts that are already simplified.

OpenCC takes every text for a traditional one. It turns 乾县 (a county) into 干县 and 昇腾 (a brand) into 升腾, because
乾 and 昇 are traditional forms of 干 and 升. But simplified text also uses 乾 and 昇, in names. So a whole text is
converted only if it has traditional characters and no simplified ones. If it has both, only the traditional characters
are converted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ccmb.core.errors import CcmbError

# Characters that OpenCC converts although the standard of simplified characters (通用规范汉字表, 2013) has them.
_BOTH = "乾吒夥徵拚捱摺於薹袷麴昇陞祕蒐谿氾剋脩榘旂"
# Words in which these characters are nevertheless the traditional form.
_TRADITIONAL_WORDS = (
    "乾(?=[杯洗果草燥冰柴旱枯涸糧粮淨净脆裂])|(?<=[餅饼曬晒吹烘風风擦豆肉])乾"
    "|夥(?=[伴計计])|(?<=[大一同合入團])夥|徵(?=[求收兵稅税信文集婚召])|(?<=[象特])徵"
    "|於(?![期菟潜陵戏])|(?<=[上提])昇|昇(?=[降級级])|祕(?=[密書书])|(?<=[神奧])祕|脩(?=改)|藉(?=[口由助])|瞭(?=解)"
)
_OF_WORDS = {"藉": "借", "瞭": "了"}  # OpenCC converts these only in words
# Characters of GB 2312, a set of simplified characters, that may have to be converted. Most texts have none of them.
_ASKED = frozenset((*_BOTH, *"後菸醣麽", *_OF_WORDS))
_FIRST, _END = 0x3400, 0xA000  # Han of the first plane


@dataclass(frozen=True, slots=True)
class _Tables:
    """The tables of single characters.

    Attributes:
        convert: converts a whole text, by OpenCC's dictionary of words.
        traditional: matches characters, and words of `_BOTH`, that simplified text does not have.
        simplified: matches characters that traditional text does not have.
        simple_form: the simplified form of each traditional character.
    """

    convert: Callable[[str], str]
    traditional: re.Pattern[str]
    simplified: re.Pattern[str]
    simple_form: dict[str, str]


def simplify(text: str) -> str:
    """The text in simplified characters; a simplified text is returned as it is.

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
    return tables.traditional.sub(lambda match: tables.simple_form[match[0]], text)


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
    characters = [chr(code) for code in range(_FIRST, _END)]
    # Line breaks keep the characters apart, because OpenCC looks for words.
    simple_form = {
        one: its for one, its in zip(characters, convert("\n".join(characters)).split("\n"), strict=True) if its != one
    }
    back = zip(characters, OpenCC("s2t").convert("\n".join(characters)).split("\n"), strict=True)
    simple = [one for one, its in back if its != one and one not in simple_form and not _in_big5(one)]
    traditional = [one for one in simple_form if one not in _BOTH]
    return _Tables(
        convert,
        re.compile(f"[{''.join(traditional)}]|{_TRADITIONAL_WORDS}"),
        re.compile(f"[{''.join(simple)}]"),
        simple_form | _OF_WORDS,
    )


def _in_big5(one: str) -> bool:
    """Whether traditional text may have a character, as it has 后 and 里."""
    try:
        one.encode("big5")
    except UnicodeEncodeError:
        return False
    return True
