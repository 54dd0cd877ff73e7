"""The Chinese pages are set as Chinese is: full-width punctuation, and the words of the glossary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import pytest

from tests.helpers.pages import ROOT, read

FOLDERS = (ROOT.glob("*.zh.md"), (ROOT / "docs").rglob("*.zh.md"), (ROOT / "src").rglob("*.zh.md"))
PAGES = sorted(str(path.relative_to(ROOT)) for paths in FOLDERS for path in paths)
# What is not prose: code, formulas, comments, tags without a text of their own, addresses of links.
NOT_PROSE = re.compile(
    r"```.*?```|`[^`\n]+`|\$\$.*?\$\$|<!--.*?-->|</?[a-z][^>\n]*>|\]\([^)\s]*\)|https?://[^\s，。；）)]+", re.DOTALL
)
HAN = r"\u4e00-\u9fff\u3000-\u303f\uff00-\uffef“”…"
WRONG = re.compile(
    rf"[{HAN}]\**[ ]*[,;:?!](?!\[)"  # after Chinese
    rf"|[,;:?!](?!\[)[ ]*\**\n?\**[ ]*[{HAN}]"  # before Chinese, even if it stands on the next line
    r"|(?<=[\ue000\])])[,;:](?=[^\s\d|:/*-]|$)|(?<=[^\s|:-])[,;:](?=[\ue000\[])"  # no space: beside code, a link
    r"|(?<=[^\s|\d:-])[,;:]$"
    rf"|[{HAN}]\.|[{HAN}]\**[ ]*\"|\"[ ]*\**[{HAN}]",
    re.MULTILINE,
)
# Words that the glossary has another word for.
OTHER_WORDS = ("预排序", "手绘世界", "绘制世界", "困难负例", "负样本", "目标函数", "文看图", "图看文")


def prose(text: str) -> str:
    """A page with a private character in place of each that is not prose: lines and places stay."""
    return NOT_PROSE.sub(lambda match: re.sub(r"[^\n]", "\ue000", match[0]), text)


def half_width(text: str) -> Iterator[tuple[int, str]]:
    """Line and surroundings of each half-width mark in Chinese prose.

    A mark is in Chinese prose where it stands beside Chinese, a pair of parentheses also where it holds Chinese. What
    may stay is what stands between numbers or Latin words: 1,000, [0.001, 0.5], "ViT-L/14, 250M", softmax(*s*).
    """
    text = prose(text)
    lines = list(accumulate(text, lambda line, mark: line + (mark == "\n"), initial=1))
    wrong = [match.start() for match in WRONG.finditer(text)]
    opened: list[int] = []
    for position, mark in enumerate(text):
        if mark == "(":
            opened.append(position)
        elif mark == ")" and opened:
            start = opened.pop()
            before, after = text[:start].rstrip(" *")[-1:], text[position + 1 :].lstrip(" *")[:1]
            formula = re.fullmatch(r"[A-Za-z]", text[start - 1 : start]) and after
            if re.search(f"[{HAN}]", text[start:position] + before + ("" if formula else after)):
                wrong.append(start)
    for position in sorted(wrong):
        yield lines[position], text[max(0, position - 12) : position + 12]


@pytest.mark.parametrize("page", PAGES)
def test_punctuation_beside_chinese_is_full_width(page: str) -> None:
    assert [f"{page}:{line}: {near!r}" for line, near in half_width(read(page))] == []


@pytest.mark.parametrize(
    "wrong",
    [
        "检索,匹配", "检索: 匹配", "A,检索", "检索\n用 `a`,\n`b`", "检索;", "检索.", "`a`:`b`", "R2D2:`a`", '"检索"',
        "**检索**: 匹配", "A:\n检索", "| 检索, 匹配 |", "分片;[检索](a.md)", "检索(MR)", "R2D2 (检索)", "(MR) 检索",
    ],
)  # fmt: skip
def test_half_width_punctuation_would_be_noticed(wrong: str) -> None:
    assert list(half_width(wrong)), wrong


@pytest.mark.parametrize(
    "right",
    [
        "检索，匹配；（MR）：“检索”。", "共 1,000 张，区间 [0.001, 0.5]", "`检索, 匹配` 与 `a:b`",
        "```\n检索, (匹配)\n```", "R2D2 ViT-L/14, 250M", "按 softmax(*s*) 抽取", "![检索](a.webp)",
        "[检索](http://a.b/c,d)", "| 检索 | ---: |",
        "1.63 (1.60-1.98)", "![a](b)：检索", "| 文本 | cuda:N |",
    ],
)  # fmt: skip
def test_what_may_stay_is_left_alone(right: str) -> None:
    assert list(half_width(right)) == []


@pytest.mark.parametrize("page", PAGES)
def test_the_words_are_those_of_the_glossary(page: str) -> None:
    # Where a word stands between quotation marks the page speaks of the word.
    assert [word for word in OTHER_WORDS if re.search(f"(?<!“){word}", prose(read(page)))] == []
