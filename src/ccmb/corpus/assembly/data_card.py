"""The data card of a corpus, in Chinese and in English: its content, its sources, what was dropped, and how to read it.

All metrics are those of the corpus itself; the words are in `data_card.md` and `data_card.zh.md`.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any, Literal

from ccmb.core.files import atomic_write
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.corpus.base.funnel import Funnel
from ccmb.corpus.base.reasons import in_chinese

Language = Literal["en", "zh"]
ByLanguage = dict[Language, str]
_FILES: ByLanguage = {"en": "README.md", "zh": "README.zh.md"}
_TEMPLATES: ByLanguage = {"en": "data_card.md", "zh": "data_card.zh.md"}
_HEAD: ByLanguage = {"en": "| step | of | rows | dropped | why |", "zh": "| 步骤 | 单位 | 行数 | 去掉 | 原因 |"}
_SIDES: dict[str, ByLanguage] = {
    "short_side": {"en": "a short side of at most {} pixels", "zh": "短边不超过 {} 像素"},
    "long_side": {"en": "a long side of at most {} pixels", "zh": "长边不超过 {} 像素"},
    "crop": {"en": "the form of a square of at most {} pixels a side", "zh": "裁成正方形，边长不超过 {} 像素"},
}


def write_cards(out: Path, counts: dict[str, Any], funnel: Funnel, recipe: ZeroRecipe) -> None:
    """Write `README.md` and `README.zh.md`."""
    for language, name in _FILES.items():
        template = Template((Path(__file__).parent / _TEMPLATES[language]).read_text(encoding="utf-8"))
        with atomic_write(out / name) as file:
            file.write(template.substitute(_values(counts, funnel, recipe, language)))


def _values(counts: dict[str, Any], funnel: Funnel, recipe: ZeroRecipe, language: Language) -> dict[str, str]:
    zh, form = language == "zh", recipe.download.resize
    in_whole: ByLanguage = {"en": "the size that they came in", "zh": "保持原尺寸"}
    side = in_whole[language] if form.image_size is None else _SIDES[form.mode][language].format(form.image_size)

    def either(holds: object, yes: ByLanguage, no: ByLanguage) -> str:
        return yes[language] if holds else no[language]

    return {
        **{name: f"{counts[name]:,}" for name in ("pictures", "pairs", "shards")},
        "fields": ("、" if zh else ", ").join(f"{name} {count:,}" for name, count in counts["pairs_by_field"].items()),
        "names": ",".join(counts["pairs_by_field"]),
        "side": side,
        "funnel": _table(funnel, language),
        "score": _score(counts["model"], recipe.score.min_score, zh),
        "script": either(
            recipe.text.to_simplified,
            {"en": "written in simplified characters", "zh": "已转为简体"},
            {"en": "in the characters they came in", "zh": "保持原来的字形"},
        ),
        "clicks": either(
            recipe.clicks.position.debias,
            {"en": "corrected for their position", "zh": "按位置偏差校正"},
            {"en": "not corrected for their position", "zh": "未按位置校正"},
        ),
        "robots": either(
            recipe.download.network.obey_robots,
            {"en": "respected", "zh": "已遵守"},
            {"en": "NOT respected", "zh": "未遵守"},
        ),
        "contacts": either(recipe.text.drop_contacts, {"en": "dropped", "zh": "已去掉"}, {"en": "kept", "zh": "保留"}),
        "words": either(
            recipe.text.sensitive_words,
            {"en": "dropped by the list of the recipe", "zh": "按配方中的词表去掉"},
            {"en": "not filtered, as the recipe names no list", "zh": "没有过滤，因为配方没有给出词表"},
        ),
    }


def _table(funnel: Funnel, language: Language) -> str:
    name = in_chinese if language == "zh" else str
    lines = [_HEAD[language], "| --- | --- | ---: | ---: | --- |"]
    for step in funnel.steps:
        why = ", ".join(f"{name(reason)} {count:,}" for reason, count in step.dropped.items())
        lines.append(f"| {name(step.name)} | {name(step.unit)} | {step.rows:,} | {step.rows - step.kept:,} | {why} |")
    return "\n".join(lines)


def _score(model: str | None, min_score: float | None, zh: bool) -> str:
    if model is None:
        return "没有用模型评判图文对。" if zh else "No model scored the pairs."
    if zh:
        return f"`model_score` 是 {model} 给出的图文余弦{'' if min_score is None else f'；低于 {min_score} 的已去掉'}。"
    dropped = "" if min_score is None else f"; pairs below {min_score} were dropped"
    return f"`model_score` is the cosine of image and text by {model}{dropped}."
