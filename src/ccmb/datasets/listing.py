"""The cards as lines of text, as values for machines, and as a page of the documentation in either language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from ccmb.datasets.cards import CARDS, Card, Published, Said

Language = Literal["en", "zh"]

_OR = {"en": " or ", "zh": " 或 "}
_AND = {"en": ", ", "zh": "、"}
_THEN = {"en": "; ", "zh": "；"}
_UNKNOWN = Said("not known", "不详")
_WORDS = {
    "retrieval": "检索", "matching": "匹配", "captioning": "图像描述", "generation": "文生图",
    "classification": "分类", "written": "人工撰写", "translated": "人工翻译", "machine": "机器翻译",
    "search queries": "搜索查询", "several": "多种",
}  # fmt: skip
_ROWS = {
    "name": Said("name", "名称"), "task": Said("task", "任务"), "splits": Said("splits", "划分"),
    "total": Said("size", "规模"), "made": Said("texts", "文本"), "metric": Said("metric", "指标"),
    "licence": Said("licence", "许可"), "source": Said("source", "来源"), "files": Said("files", "文件"),
    "download": Said("download by hand", "手动下载"), "notes": Said("notes", "说明"),
    "unverified": Said("unverified", "未核实"),
}  # fmt: skip


def card_values(card: Card) -> dict[str, Any]:
    """A card as JSON values, in English; null stands for what is not known."""
    values = asdict(card) | {"splits": [published._asdict() for published in card.splits]}
    for key in ("metric", "download", "total", "licence"):
        said = getattr(card, key)
        values[key] = None if said is None else said.en
    return values | {key: [said.en for said in getattr(card, key)] for key in ("notes", "unverified")}


def cards_text(cards: Iterable[Card]) -> str:
    """The cards for a terminal, one after the other."""
    blocks = []
    for card in cards:
        rows = [(said.en, value) for said, value in _rows(card, "en") if said.en != "name"]
        blocks.append("\n".join([f"{card.name}  ({card.title})", *(f"  {head:18}{value}" for head, value in rows)]))
    return "\n\n".join(blocks)


def cards_page(language: Language) -> str:
    """The sections of docs/data.md or docs/data.zh.md, one a card."""
    return "\n\n".join(_section(card, language) for card in CARDS.values()) + "\n"


def _section(card: Card, language: Language) -> str:
    def cell(key: str, value: str) -> str:
        if key not in ("name", "files"):
            return value
        return _OR[language].join(f"`{part}`" for part in value.split(_OR[language]))

    rows = [
        f"| {getattr(said, language)} | {cell(key, value)} |"
        for key, (said, value) in zip(_ROWS, _rows(card, language), strict=True)
        if value
    ]
    return "\n".join([f"## {card.title}", "", "| | |", "| --- | --- |", *rows])


def _rows(card: Card, language: Language) -> list[tuple[Said, str]]:
    def said(value: Said | None) -> str:
        return getattr(value or _UNKNOWN, language)

    def word(value: str) -> str:
        return value if language == "en" else _WORDS[value]

    values = {
        "name": card.name,
        "task": _AND[language].join(map(word, card.families)),
        "splits": _AND[language].join(_split(published, language) for published in card.splits),
        "total": said(card.total),
        "made": word(card.made) if card.made else said(None),
        "metric": said(card.metric),
        "licence": said(card.licence),
        "source": card.source or said(None),
        "files": _OR[language].join(card.files),
        "download": said(card.download),
        "notes": _THEN[language].join(map(said, card.notes)),
        "unverified": _THEN[language].join(map(said, card.unverified)),
    }
    return [(_ROWS[key], value) for key, value in values.items()]


def _split(published: Published, language: Language) -> str:
    nouns = ("pictures", "texts") if language == "en" else ("图", "句")
    counts = [f"{n:,} {noun}" for n, noun in zip(published[1:], nouns, strict=True) if n is not None]
    if not counts:
        return published.name
    return f"{published.name} ({', '.join(counts)})" if language == "en" else f"{published.name}（{'，'.join(counts)}）"
