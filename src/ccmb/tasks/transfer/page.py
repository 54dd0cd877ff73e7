"""The transfer matrix as a page: heat maps of models by languages, what few images of a language add, and gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.report.document import document
from ccmb.report.markup import both, escape, paragraph, percent, section, signed, table
from ccmb.tasks.retrieval.language_report import STAGES, main_metric
from ccmb.tasks.transfer.table import share, training_in_words

Values = Mapping[str, Any]
STAGE_WORDS = {"pre_ranking": ("粗排", "Pre-ranking"), "ranking": ("精排", "Ranking")}
WAY_WORDS = {"text_to_image": ("文搜图", "text to image"), "image_to_text": ("图搜文", "image to text")}


def transfer_page(report: Values) -> str:
    """The whole page, of what `transfer.json` holds."""
    models = report["models"]
    parts = [_header(report)]
    for stage in STAGES:
        if any(one[stage] for entry in models for one in entry["metrics"].values()):
            parts.append(_stage_section(report, stage))
    parts += [_kept_section(report), _few_section(models)]
    return document("CCMB transfer", [part for part in parts if part])


def _header(report: Values) -> str:
    columns = report["columns"]
    sizes = ", ".join(f"{name}: {one['images']:,} / {one['texts']:,}" for name, one in columns.items())
    about = paragraph(
        f"{escape(report['data'])}，{escape(report['split'])}。行为模型，列为测试语言；"
        f"图片数 / 文本数：{escape(sizes)}。方括号为对图片重采样的 95% 置信区间。",
        f"{escape(report['data'])}, {escape(report['split'])}. Rows are models, columns the languages that are tested; "
        f"images / texts: {escape(sizes)}. In brackets 95 % intervals over images.",
    )
    translated = [name for name, one in columns.items() if one["translated_into"]]
    note = paragraph(
        f"{escape('、'.join(translated))}：机器翻译后再检索。",
        f"{escape(', '.join(translated))}: searched by machine translations.",
        "note",
    )
    title = both("跨语言迁移", "Transfer between languages")
    return f"<header><h1>{title}</h1>{about}{note if translated else ''}</header>"


def _stage_section(report: Values, stage: str) -> str:
    chinese, english = STAGE_WORDS[stage]
    body = ""
    for way, words in WAY_WORDS.items():
        for recall in ("R@1", "R@10"):
            title = both(f"{words[0]} {recall}", f"{words[1]} {recall}")
            body += f'<h3 style="margin-top:1.6rem">{title}</h3>{_heat_map(report, stage, way, recall)}'
    return section(chinese, english, body)


def _heat_map(report: Values, stage: str, way: str, recall: str) -> str:
    def metric(entry: Values, name: str) -> Values | None:
        of_stage = entry["metrics"].get(name, {}).get(stage)
        return of_stage[way][recall] if of_stage and way in of_stage else None

    names = list(report["columns"])
    known = [one["value"] for entry in report["models"] for name in names if (one := metric(entry, name))]
    rows = []
    for entry in report["models"]:
        if not any(metric(entry, name) for name in names):
            continue
        cells = [_heat(metric(entry, name), max(known, default=1.0), name in entry["trained_on"]) for name in names]
        rows.append((f"{escape(entry['name'])}<br><small>{escape(training_in_words(entry))}</small>", *cells))
    return table((both("模型", "Model"), *map(escape, names)), rows, "heat")


def _heat(metric: Values | None, best: float, trained: bool) -> str:
    """A cell whose colour is the deeper the higher its value; what a model was trained on is bold."""
    if metric is None:
        return "–"
    depth = round(80 * (metric["value"] / best) ** 2) if best > 0 else 0  # squared, so that the eye tells more apart
    value = f"<b>{percent(metric['value'])}</b>" if trained else percent(metric["value"])
    ends = f"<small>[{percent(metric['low'])}, {percent(metric['high'])}]</small>"
    colour = f"background:color-mix(in srgb, var(--first) {depth}%, transparent)"
    return f'<span class="cell" style="display:block;padding:.15rem .35rem;{colour}">{value}<br>{ends}</span>'


def _kept_section(report: Values) -> str:
    rows = []
    for entry in report["models"]:
        gains = [
            f"{escape(name)} {signed(gain['mean'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
            for name, one in entry["metrics"].items()
            if (gain := one["gain_R@1"]) is not None
        ]
        place = "–" if entry["mean_rank"] is None else f"{entry['mean_rank']:.2f}"
        rows.append((escape(entry["name"]), share(entry), place, "<br>".join(gains) or "–"))
    head = (
        both("模型", "Model"),
        both("在未训练语言上保留", "Kept in languages it was not trained on"),
        both("各语言平均名次", "Mean rank over languages"),
        both("精排在 R@1 上的增益（点）", "What ranking gains in R@1, points"),
    )
    note = paragraph(
        "保留：未训练语言的文搜图 R@10 均值与其训练语言之比。",
        "Kept: the mean R@10 from text to image in the other languages as a share of that in its own.",
        "note",
    )
    return section("迁移", "Transfer", table(head, rows, "words") + note)


def _few_section(models: Sequence[Values]) -> str:
    """What a number of images of a new language adds to models of others; empty where nobody tried."""
    tried = [entry for entry in models if entry["images"] and len(entry["trained_on"]) == 1]
    if not tried:
        return ""
    counts = sorted({entry["images"] for entry in tried})
    rows = []
    for after, language in dict.fromkeys((tuple(entry["after"]), entry["trained_on"][0]) for entry in tried):
        before = [one for one in models if tuple(one["trained_on"]) == after and not one["images"]]
        zero = main_metric(before[0]["metrics"].get(language)) if before else None
        by_count = {
            entry["images"]: main_metric(entry["metrics"].get(language))
            for entry in tried
            if tuple(entry["after"]) == after and entry["trained_on"] == [language]
        }
        name = f"{','.join(after) or '–'} → {language}"
        rows.append((escape(name), percent(zero), *(percent(by_count.get(count)) for count in counts)))
    head = (both("语言", "Languages"), "0", *(f"{count:,}" for count in counts))
    note = paragraph(
        "列为新语言的训练图片数；文搜图 R@10。",
        "Columns are images of the new language that were trained on; R@10 from text to image.",
        "note",
    )
    return section("少样本", "Few shots", table(head, rows) + note)
