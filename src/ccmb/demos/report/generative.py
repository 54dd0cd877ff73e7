"""The report's parts on captions and generated images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccmb.demos.report.galleries import Uris
from ccmb.report.markup import both, chinese_text, differing_chinese_text, paragraph, percent, section, signed, table

THINGS = {
    "kind": ("种类正确", "kind right"),
    "colour": ("颜色正确", "colour right"),
    "kind_and_colour": ("种类和颜色都正确", "kind and colour right"),
}
MATCH = ("匹配分", "match score")


def captions_section(captions: Mapping[str, Any], uris: Uris) -> str:
    """The metrics of captions, as decoded and as re-ranked by the match score, then the first held-out images."""
    metrics = captions["figures"]
    states = {("解码器排第一的", "first by the decoder"): metrics["before_reranking"], ("重排后", "re-ranked"): metrics}
    rows = [
        (
            both(*state),
            f"{entry['CIDEr-D'] / 100:.2f}",
            *(percent(entry["things"][name]) for name in THINGS),
            "–" if entry["match_score"] is None else f"{entry['match_score']:.3f}",
        )
        for state, entry in states.items()
    ]
    head = (both("描述", "Caption"), "CIDEr-D", *(both(*label) for label in THINGS.values()), both(*MATCH))
    what = paragraph(
        f"从文本-图像编码器的权重出发训练的解码器，为 {metrics['pictures']:,} 张留出图片各写一句描述。"
        "物体各项为百分比；CIDEr-D 按字计算，最高约为 10。",
        f"A decoder that starts from the text-image encoder's weights writes a caption for each of "
        f"{metrics['pictures']:,} held-out images. Shares of the things are in percent; CIDEr-D is on characters, "
        "10 at the most.",
    )
    cards = "".join(
        f'<article class="card"><img src="{uris[entry["picture"]]}" alt=""><dl><dt>{both("写的", "written")}</dt>'
        f"<dd>{differing_chinese_text(entry['text'], entry['truth'])}</dd>"
        f"<dt>{both('参考', 'reference')}</dt><dd>{chinese_text(entry['truth'])}</dd></dl></article>"
        for entry in captions["shown"]
    )
    return section("看图说话", "Captions", f'{what}{table(head, rows, "figures")}<div class="cards">{cards}</div>')


def painted_section(painted: Mapping[str, Any], uris: Uris) -> str:
    """The metrics of the first and of the chosen image of each text, then the first texts with all their images."""
    metrics = painted["figures"]
    best_of, names = metrics["painting"]["best_of"], [name for name in ("match_score", *THINGS) if name in metrics]
    rows = [
        (both("随机一张", "any one"), *(percent(metrics["first"][name]) for name in names)),
        (
            both(f"{best_of} 张中最佳", f"best of {best_of}"),
            *(f"{percent(metrics[name])} {_interval(metrics['gain'][name])}" for name in names),
        ),
    ]
    labels = {"match_score": MATCH, **THINGS}
    head = (both("图片", "Picture"), *(both(*labels[name]) for name in names))
    what = paragraph(
        f"流匹配模型按文本塔的状态画出 {metrics['pictures']:,} 条留出文字，其种类与颜色的搭配从未训练过。"
        "物体由不经训练的读图程序从像素读出。单位为百分比；方括号内为挑选带来的提升及其 95% 区间。",
        f"A flow-matching network paints {metrics['pictures']:,} held-out texts, whose pairings of kind and colour "
        "were never trained on, from the text tower's states. What an image shows is read from its pixels by a "
        "program that is not trained. In percent; brackets hold what choosing gains, with its 95 % interval.",
    )
    shown = "".join(
        f'<article><h3>{chinese_text(entry["text"])}</h3><div class="tiles">'
        + "".join(f'<div class="tile"><img src="{uris[name]}" alt=""></div>' for name in entry["pictures"])
        + "</div></article>"
        for entry in painted["shown"]
    )
    note = paragraph("每行最左为匹配分最高的一张。", "The leftmost image has the highest match score.", "note")
    return section("文生图", "Text to image", what + table(head, rows, "figures") + note + shown)


def _interval(gain: list[float]) -> str:
    mean, low, high = map(signed, gain)
    return f'<span class="muted">{mean} [{low}, {high}]</span>'
