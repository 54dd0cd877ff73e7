"""The cards as lines of text, as JSON values, and as a page of the documentation in either language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from ccmb.core.json_values import json_values
from ccmb.datasets.cards import CARDS, Card, CardSplit, EnZh

Language = Literal["en", "zh"]

_OR = {"en": " or ", "zh": " 或 "}
_AND = {"en": ", ", "zh": "、"}
_THEN = {"en": "; ", "zh": "；"}
_UNKNOWN = EnZh("not known", "不详")
_WORDS = {
    "retrieval": "检索", "matching": "匹配", "captioning": "图像描述", "generation": "文生图",
    "classification": "分类", "written": "人工撰写", "translated": "人工翻译", "machine": "机器翻译",
    "search queries": "搜索查询", "several": "多种",
}  # fmt: skip
_ROWS = {
    "name": EnZh("name", "名称"), "task": EnZh("task", "任务"), "splits": EnZh("splits", "划分"),
    "total": EnZh("size", "规模"), "made": EnZh("texts", "文本"), "metric": EnZh("metric", "指标"),
    "licence": EnZh("licence", "许可"), "source": EnZh("source", "来源"), "files": EnZh("files", "文件"),
    "download": EnZh("download by hand", "手动下载"), "notes": EnZh("notes", "说明"),
    "unverified": EnZh("unverified", "未核实"),
}  # fmt: skip


def card_values(card: Card) -> dict[str, Any]:
    """A card as JSON values, in English; null stands for unknown values."""
    values = asdict(card) | {"splits": [json_values(published, images="pictures") for published in card.splits]}
    for key in ("metric", "download", "total", "licence"):
        value = getattr(card, key)
        values[key] = None if value is None else value.en
    return values | {key: [value.en for value in getattr(card, key)] for key in ("notes", "unverified")}


def cards_text(cards: Iterable[Card]) -> str:
    """The cards for a terminal, one after the other."""
    blocks = []
    for card in cards:
        rows = [(label.en, value) for label, value in _rows(card, "en") if label.en != "name"]
        blocks.append("\n".join([f"{card.name}  ({card.title})", *(f"  {head:18}{value}" for head, value in rows)]))
    return "\n\n".join(blocks)


def cards_page(language: Language) -> str:
    """The sections of docs/data.md or docs/data.zh.md, one for each card."""
    return "\n\n".join(_section(card, language) for card in CARDS.values()) + "\n"


def _section(card: Card, language: Language) -> str:
    def cell(key: str, value: str) -> str:
        if key not in ("name", "files"):
            return value
        return _OR[language].join(f"`{part}`" for part in value.split(_OR[language]))

    rows = [
        f"| {getattr(label, language)} | {cell(key, value)} |"
        for key, (label, value) in zip(_ROWS, _rows(card, language), strict=True)
        if value
    ]
    return "\n".join([f"## {card.title}", "", "| | |", "| --- | --- |", *rows])


def _rows(card: Card, language: Language) -> list[tuple[EnZh, str]]:
    def translated(value: EnZh | None) -> str:
        return getattr(value or _UNKNOWN, language)

    def word(value: str) -> str:
        return value if language == "en" else _WORDS[value]

    values = {
        "name": card.name,
        "task": _AND[language].join(map(word, card.families)),
        "splits": _AND[language].join(_split(published, language) for published in card.splits),
        "total": translated(card.total),
        "made": word(card.made) if card.made else translated(None),
        "metric": translated(card.metric),
        "licence": translated(card.licence),
        "source": card.source or translated(None),
        "files": _OR[language].join(card.files),
        "download": translated(card.download),
        "notes": _THEN[language].join(map(translated, card.notes)),
        "unverified": _THEN[language].join(map(translated, card.unverified)),
    }
    return [(_ROWS[key], value) for key, value in values.items()]


def _split(published: CardSplit, language: Language) -> str:
    nouns = ("images", "texts") if language == "en" else ("图", "句")
    counts = [f"{n:,} {noun}" for n, noun in zip(published[1:], nouns, strict=True) if n is not None]
    if not counts:
        return published.name
    return f"{published.name} ({', '.join(counts)})" if language == "en" else f"{published.name}（{'，'.join(counts)}）"
