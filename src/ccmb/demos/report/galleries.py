"""The report's sections with images: example searches, minimal pairs, and the synthetic corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.report.markup import both, chinese_text, differing_chinese_text, escape, paragraph, percent, section

Uris = Mapping[str, str]
STAGES = {"pre_ranking": ("粗排", "Pre-ranking"), "ranking": ("精排", "Ranking")}
WHY = {
    "mended": ("精排改对", "fixed by ranking"),
    "random": ("随机抽取", "drawn at random"),
    "worsened": ("精排改错", "made worse by ranking"),
}
SWAPS = {"all": "全部", "colour": "颜色", "place": "位置", "amount": "数量"}


def images_shown(examples: Mapping[str, Any], corpus: Mapping[str, Any]) -> list[str]:
    """The names of all images on the page, each once."""
    names: list[str] = [line["image"] for line in corpus["shown"]]
    for search in examples["searches"]["shown"]:
        names += [*search["pre_ranking"], *search.get("ranking", [])]
    names += [pair["picture"] for pair in examples["minimal_pairs"]]
    return list(dict.fromkeys(names))


def searches_section(searches: Mapping[str, Any], seed: int, uris: Uris) -> str:
    """Two rows of images for each example query, the right image framed."""
    shown = searches["shown"]
    if not shown:
        return section("检索示例", "Example searches", paragraph("没有可展示的查询。", "There are no queries to show."))
    ranked = any("ranking" in search for search in shown)
    fixed, worsened, queries = searches["mended"], searches["worsened"], searches["queries"]
    counts = {why: sum(search["why"] == why for search in shown) for why in WHY}
    if ranked:
        how = paragraph(
            f"在 {queries:,} 条留出查询中，精排把 {fixed:,} 条的第一名改对，把 {worsened:,} 条改错。"
            f"下面的例子不是挑出来的：{counts['mended']} 条抽自改对的，{counts['random']} 条从全部查询中随机抽取，"
            f"{counts['worsened']} 条抽自改错的（随机种子 {seed}）。绿框为正确的图片。",
            f"Of {queries:,} held-out queries, ranking put the right image first in {fixed:,} where pre-ranking had "
            f"not, and lost it in {worsened:,}. The examples are not hand-picked: {counts['mended']} were drawn from "
            f"the fixed, {counts['random']} at random from all, and {counts['worsened']} from those made worse "
            f"(seed {seed}). The right image is framed in green.",
        )
    else:
        how = paragraph(
            f"从 {queries:,} 条留出查询中随机抽取（随机种子 {seed}）。"
            "模型没有交叉编码器，因此只有粗排。绿框为正确的图片。",
            f"Drawn at random from {queries:,} held-out queries (seed {seed}). The model has no cross encoders, so "
            "there is pre-ranking alone. The right image is framed in green.",
        )
    return section("检索示例", "Example searches", how + "".join(_search(search, uris) for search in shown))


def _search(search: Mapping[str, Any], uris: Uris) -> str:
    rows = []
    for stage, label in STAGES.items():
        if stage not in search:
            continue
        right = search["picture"]
        tiles = "".join(_tile(name, name == right, position, uris) for position, name in enumerate(search[stage], 1))
        rank = search["rank"][stage]
        kind = "good" if rank == 1 else "bad"
        rows.append(
            f'<div class="row {stage}"><div class="stage">{both(*label)}'
            f'<span class="rank {kind}">{both(f"正确图片第 {rank} 名", f"right one at {rank}")}</span></div>'
            f'<div class="tiles">{tiles}</div></div>'
        )
    why = f'<span class="why {search["why"]}">{both(*WHY[search["why"]])}</span>'
    return f"<article><h3>{chinese_text(search['text'])}{why}</h3>{''.join(rows)}</article>"


def _tile(name: str, right: bool, position: int, uris: Uris) -> str:
    mark = '<i class="tick">✓</i>' if right else ""
    return f'<div class="tile{" right" if right else ""}">{_image(name, uris, str(position))}{mark}</div>'


def _image(name: str, uris: Uris, alternative: str) -> str:
    if name not in uris:
        return f'<span class="missing">{escape(name)}</span>'
    return f'<img src="{uris[name]}" alt="{escape(alternative)}" title="{escape(name)}">'


def minimal_pairs_section(
    report: Mapping[str, Any] | None, pairs: Sequence[Mapping[str, Any]], seed: int, uris: Uris
) -> str:
    """Accuracy by stage and kind of swap as bars, then examples with both stages' scores."""
    if not report:
        body = paragraph("数据中没有最小对。", "The data has no minimal pairs.")
        return section("最小对", "Minimal pairs", body)
    what = paragraph(
        f"{report['pairs']:,} 对：同一张图片，一条真描述，一条只交换了两个属性的假描述。"
        "条形为真描述得分更高的比例，虚线为猜测的 50%。",
        f"{report['pairs']:,} pairs: one image, its true text, and a false one in which two attributes are swapped. "
        "The bars show how often the true text scores higher; the dashed line is guessing (50 %).",
    )
    stages = [stage for stage in STAGES if stage in report]
    key = "".join(f'<span><i class="swatch {stage}"></i>{both(*STAGES[stage])}</span>' for stage in stages)
    kinds = sorted(report["pre_ranking"], key=lambda swap: (swap != "all", swap))
    bars = "".join(_bars(report, swap, stages) for swap in kinds)
    how = paragraph(
        f"示例：一半抽自精排改对的，一半随机抽取，另加精排改错的（随机种子 {seed}）。"
        "得分：粗排为余弦，精排为第二阶段的得分。",
        "Examples: half drawn from those that ranking fixed, half at random, then some that it made worse "
        f"(seed {seed}). Scores: cosine for pre-ranking, the second stage's for ranking.",
        "note",
    )
    cards = "".join(_pair(pair, uris) for pair in pairs)
    return section(
        "最小对", "Minimal pairs",
        f'{what}<div class="key">{key}</div><div class="bars">{bars}</div>{how}<div class="cards">{cards}</div>',
    )  # fmt: skip


def _bars(report: Mapping[str, Any], swap: str, stages: Sequence[str]) -> str:
    bars = ""
    for stage in stages:
        value = report[stage][swap]
        fill = f'<div class="track"><div class="fill" style="width:{value:.2f}%"></div></div>'
        bars += f'<div class="bar {stage}">{fill}<span class="figure">{percent(value)}</span></div>'
    return f'<div class="swap"><div class="name">{_swap(swap)}</div><div>{bars}</div></div>'


def _swap(swap: str) -> str:
    return both(SWAPS.get(swap, escape(swap)), escape(swap.replace("_", " ")))


def _pair(pair: Mapping[str, Any], uris: Uris) -> str:
    why = f'<span class="why {pair["why"]}">{both(*WHY[pair["why"]])}</span>'
    true, false = both("真", "true"), both("假", "false")
    texts = f"<dt>{true}</dt><dd>{chinese_text(pair['text'])}</dd>"
    texts += f"<dt>{false}</dt><dd>{differing_chinese_text(pair['false_text'], pair['text'])}</dd>"
    rows = ""
    for stage, label in STAGES.items():
        if stage in pair["scores"]:
            right = pair["right"][stage]
            cells = "".join(f"<td>{score:.3f}</td>" for score in pair["scores"][stage])
            correctness = both("✓ 对", "✓ right") if right else both("✗ 错", "✗ wrong")
            kind = "good" if right else "bad"
            rows += f'<tr><th scope="row">{both(*label)}</th>{cells}<td class="{kind}">{correctness}</td></tr>'
    return (
        f'<article class="card">{_image(pair["picture"], uris, pair["text"])}'
        f'<div>{why} <span class="muted">{_swap(pair["swap"])}</span><dl>{texts}</dl>'
        f"<table><thead><tr><td></td><th>{true}</th><th>{false}</th><td></td></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></article>"
    )


def corpus_section(corpus: Mapping[str, Any], uris: Uris) -> str:
    """The number of images, a note that they are drawn by a program, and some samples with all their texts."""
    counts = {name: f"{count:,}" for name, count in corpus["counts"].items()}
    train, val, test = (counts.get(name, "0") for name in ("train", "val", "test"))
    body = paragraph(
        "这些图片是<strong>程序画出来的</strong>，文字也是程序写的："
        f"训练 {train} 张，验证 {val} 张，留出图库 {test} 张，训练与图库的组合互不重复。"
        "它们代替无法随软件分发的真实数据，只说明方法可行；"
        "这里的数字不能与论文在真实照片上的结果相比。",
        f"The images are <strong>drawn by a program</strong>, and their texts are written by one: {train} to train "
        f"on, {val} to validate, {test} in the held-out gallery, whose compositions never occur in training. They "
        "stand in for real data that cannot be shipped: they show that the method works, and their metrics say "
        "nothing about real photographs or the paper's tables.",
    )
    cards = "".join(_drawn(line, uris) for line in corpus["shown"])
    return section("画了什么", "What was drawn", f'{body}<div class="cards">{cards}</div>')


def _drawn(line: Mapping[str, Any], uris: Uris) -> str:
    fields = (("query", "查询"), ("title", "标题"), ("content", "正文"), ("captions", "描述"), ("details", "细节"))
    texts = []
    for field, chinese in fields:
        value = line.get(field) or []
        shown = [value] if isinstance(value, str) else value[:2]
        if shown:
            texts.append(f"<dt>{both(chinese, field)}</dt><dd>{'<br>'.join(map(chinese_text, shown))}</dd>")
    return f'<article class="card">{_image(line["image"], uris, "")}<dl>{"".join(texts)}</dl></article>'
