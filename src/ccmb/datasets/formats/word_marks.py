"""Joins captions that are cut into words with part-of-speech marks, as in `男孩:n 跑:v`.

Published files have marks of several schemes, some with digits or capitals (`的:ude1`, `等:udeng`, `人:N`). Some words
have no mark. Captions that are not cut may contain colons, too (`时间12:30`, `他说:ok`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKED = re.compile(r"(.+)[:/]([A-Za-z]{1,7}[0-9]?)")
# In a caption that is certainly cut, anything after the last colon is a mark, unless it is a number: 人:名词.
_LOOSELY = re.compile(r"(.+)[:/](?!\d+$)[^\s:/]{1,8}")
_CHINESE = re.compile(r"[\u3400-\u9fff]")
# The marks of PKU and ICTCLAS, Boson, jieba and the Chinese Treebank, in lower case and without digits.
_KNOWN = frozenset(
    """
    a ad ag al an b bl c cc d dg dl e eng f g h i j k l m mg mq n ng nl nr nrf nrfg nrj nrt ns nsf nt nto ntc nts
    nx nz o p pba pbei q qg qt qv r rg rr ry rys ryt ryv rz rzs rzt rzv s t tg u ud ude udeng udh ug uguo uj ul
    ule ulian uls usuo uv uyy uz uzhe uzhi v vd vf vg vi vl vn vq vshi vx vyou w wb wd wf wh wj wky wkz wm wn wp
    ws wt ww wyy wyz x xe xm xs xu xx y yg z zg nn vv va vc ve pu dec deg dev der cd od dt lc jj as sp ba sb lb cs
    msp fw ij on etc time email url
    """.split()  # noqa: SIM905
)


def without_marks(text: str, cut: bool = False) -> str | None:
    """The joined words of a caption that is cut into marked words; None if it is not cut.

    Args:
        cut: whether the captions of the file are cut. Then half of the words must have a mark. Otherwise all words must
            have one, or three quarters of them if there are at least four words; and half of the marks must be known.
    """
    words = text.split()
    marked = [match for word in words if (match := _MARKED.fullmatch(word))]
    chinese = sum(1 for match in marked if _CHINESE.search(match[1]))
    if not chinese or 3 * chinese < len(words):
        return None
    known = sum(1 for match in marked if match[2].lower().rstrip("0123456789") in _KNOWN)
    all_or_most = len(marked) == len(words) > 1 or (len(words) >= 4 and 4 * len(marked) >= 3 * len(words))
    if not (2 * len(marked) >= len(words) if cut else all_or_most and 2 * known >= len(marked)):
        return None
    loosely = (_LOOSELY.fullmatch(word) for word in words)
    return "".join(match[1] if match else word for match, word in zip(loosely, words, strict=True))


def are_cut(texts: Sequence[str]) -> bool:
    """Whether most of a file's captions are cut into marked words."""
    return 2 * sum(without_marks(text) is not None for text in texts) > len(texts)
