"""The page about a corpus: its funnel, histograms, domains, and a random sample of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccmb.core.files import atomic_write
from ccmb.corpus.analysis.statistics import image_of, random_images
from ccmb.corpus.base.reasons import in_chinese
from ccmb.report.bars import bar_chart
from ccmb.report.document import document
from ccmb.report.markup import both, chinese_text, data_uri, escape, format_number, paragraph, section, table

FIELDS = {"query": "查询", "caption": "描述", "title": "标题", "content": "正文"}
Shown = tuple[str, Mapping[str, Sequence[str]], str]


def write_corpus_page(
    corpus: Path, metrics: Mapping[str, Any], page: Path, images: int, further: Sequence[str] = ()
) -> None:
    """Write the page about a corpus with `images` random images; see `corpus_page`."""
    chosen = random_images(corpus, images)
    shown = [(data_uri(image_of(corpus, image)), image.texts, str(image.row["url"])) for image in chosen]
    with atomic_write(page) as file:
        file.write(corpus_page(metrics, shown, further))


def corpus_page(metrics: Mapping[str, Any], shown: Sequence[Shown], further: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        metrics: the result of `ccmb.corpus.analysis.statistics.statistics`.
        shown: images to show, each as a data URI, texts by field, and URL.
        further: more sections after the headline.
    """
    body = [
        _header(metrics),
        *further,
        funnel_section(metrics["funnel"]),
        _histograms(metrics),
        _domains(metrics),
        _sample(shown),
    ]
    return document("CCMB corpus", body)


def _header(metrics: Mapping[str, Any]) -> str:
    title = f"<h1>{both('图文语料', 'A corpus of images and texts')}</h1>"
    first = metrics["funnel"][0]
    tiles = [
        (format_number(metrics["pictures"]), ("图片", "pictures")),
        (format_number(metrics["pairs"]), ("图文对", "pairs")),
        (f"{metrics['pairs'] / max(1, metrics['pictures']):.1f}", ("每张图片的文本", "texts an image")),
        (
            f"{metrics['bytes'] / 1e6:,.1f}<small>MB</small>",
            (f"{metrics['shards']:,} 个分片", f"in {metrics['shards']:,} shards"),
        ),
    ]
    lead = paragraph(
        f"由 {first['rows']:,} 行{in_chinese(first['unit'])}得到。下面是每一步去掉了什么、留下了什么。",
        f"Made of {first['rows']:,} {first['unit']}. Below: what each step dropped and why, and what is left.",
        "lead",
    )
    headline = "".join(f"<div><b>{metric}</b>{both(*label)}</div>" for metric, label in tiles)
    return f'<header>{title}{lead}<div class="headline">{headline}</div></header>'


def funnel_section(steps: Sequence[Mapping[str, Any]]) -> str:
    """What each step kept, and what it dropped and why."""
    rows = []
    for step in steps:
        why = "<br>".join(
            f"{both(escape(in_chinese(reason)), escape(reason))} <span class='muted'>{count:,}</span>"
            for reason, count in step["dropped"].items()
        )
        share = f"{100 * step['kept'] / step['rows']:.1f} %" if step["rows"] else "–"
        name, unit = (both(escape(in_chinese(step[key])), escape(step[key])) for key in ("name", "unit"))
        rows.append((name, unit, f"{step['rows']:,}", f"{step['kept']:,}", share, why))
    head = (
        both("步骤", "Step"), both("单位", "Of"), both("进入", "In"), both("留下", "Kept"), both("比例", "Share"),
        both("去掉的原因", "Dropped for"),
    )  # fmt: skip
    note = paragraph(
        "单位从展示变为查询与图片的对，再到文本、图文对和图片：各步之间的行数因此不同。",
        "What is counted changes from impressions to pairs of query and image, to texts, pairs and images, so that "
        "a step need not begin with as many rows as the one before has kept.",
        "note",
    )
    return section("漏斗", "Funnel", table(head, rows, "words") + note)


def _histograms(metrics: Mapping[str, Any]) -> str:
    charts = [
        _chart(f"{FIELDS[field]}的字数", f"characters of {field}", values)
        for field, values in metrics["characters"].items()
    ]
    charts.append(_chart("点击率下界", "lower bound of the click rate", metrics["bounds"]))
    if metrics["model_scores"]:
        charts.append(_chart("模型余弦", "cosine by the model", metrics["model_scores"]))
    charts.append(_chart("原图短边（像素）", "short side as it came, pixels", metrics["short_sides"]))
    charts.append(_chart("每张图片的文本数", "texts of an image", metrics["texts_per_picture"]))
    return section("分布", "Distributions", f'<div class="panels">{"".join(charts)}</div>')


def _chart(chinese: str, english: str, values: Mapping[str, Any]) -> str:
    total = sum(values["count"])
    caption = f'<figcaption>{both(chinese, english)}<span class="figure">{total:,}</span></figcaption>'
    if not total:
        return f'<figure>{caption}<div class="empty">{both("没有", "none")}</div></figure>'
    labels = [f"{start:g}" for start in values["from"]]
    labels[-1] += "+"
    return f"<figure>{caption}{bar_chart(labels, values['count'], english)}</figure>"


def _domains(metrics: Mapping[str, Any]) -> str:
    pairs = max(1, metrics["pairs"])
    rows = [
        (escape(name or "–"), f"{count:,}", f"{100 * count / pairs:.1f} %")
        for name, count in metrics["domains"].items()
    ]
    head = (both("域名", "Domain"), both("图文对", "Pairs"), both("比例", "Share"))
    return section("最多的域名", "Top domains", table(head, rows, "figures"))


def _sample(shown: Sequence[Shown]) -> str:
    cards = ""
    for uri, texts, url in shown:
        lines = "".join(
            f"<dt>{both(FIELDS[field], field)}</dt><dd>{'<br>'.join(map(chinese_text, field_texts))}</dd>"
            for field, field_texts in texts.items()
        )
        cards += f'<article class="card"><img src="{uri}" alt="{escape(url)}"><dl>{lines}</dl></article>'
    what = paragraph(
        f"按哈希随机抽取的 {len(shown)} 张图片及其全部文本；每次抽到的都一样，不是挑出来的。",
        f"{len(shown)} images drawn at random by hash, with all their texts; the same each time, not hand-picked.",
    )
    return section("随机样本", "A random sample", f'{what}<div class="cards">{cards}</div>')
