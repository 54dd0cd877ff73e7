"""`report.html`: one self-contained file, made from plain values and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.demos.report.classification import classes_section
from ccmb.demos.report.galleries import STAGES, corpus_section, minimal_pairs_section, searches_section
from ccmb.demos.report.generative import captions_section, painted_section
from ccmb.demos.report.training import curves_section, objectives_section
from ccmb.report.document import document
from ccmb.report.markup import both, duration, escape, paragraph, percent, section, signed, table

DIRECTIONS = {"text_to_image": ("文搜图", "Text → image"), "image_to_text": ("图搜文", "Image → text")}
PARTS = {
    "draw": ("绘制语料", "draw the corpus"),
    "train": ("预训练", "pre-train"),
    "evaluate": ("评测", "evaluate"),
    "classify": ("零样本分类", "classify"),
    "index": ("建索引", "index the gallery"),
    "caption": ("学习看图说话", "learn to describe"),
    "paint": ("学习画图", "learn to paint"),
    "report": ("写报告", "report"),
    "total": ("合计", "total"),
}


def render_page(
    report: Mapping[str, Any],
    examples: Mapping[str, Any],
    metrics: Sequence[dict[str, float]],
    corpus: Mapping[str, Any],
    uris: Mapping[str, str],
    generative: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> str:
    """The whole page.

    Args:
        report: the content of `report.json`.
        examples: the result of `ccmb.demos.report.examples.gather_examples`.
        metrics: the lines of the run's `metrics.jsonl`.
        corpus: `counts` of images by split, and the lines of some samples as `shown`.
        uris: data URIs of the images by name.
        generative: metrics and examples of captions and of generated images, if there are any.
    """
    captions, painted = generative or (None, None)
    off = report.get("objectives_off", [])
    body = [
        _summary(report),
        retrieval_section(report["retrieval"], off),
        curves_section(metrics, off, report["model"]["steps"]),
        objectives_section(report["objectives"], off, metrics),
        minimal_pairs_section(report.get("minimal_pairs"), examples["minimal_pairs"], examples["seed"], uris),
        searches_section(examples["searches"], examples["seed"], uris),
        classes_section(report["classification"]["drawn"]),
        captions_section(captions, uris) if captions else "",
        painted_section(painted, uris) if painted else "",
        corpus_section(corpus, uris),
        _seconds_section(report["seconds"]),
        _machine_section(report),
        _next_section(report["next"]),
    ]
    return document("CCMB quickstart", body)


def _summary(report: Mapping[str, Any]) -> str:
    title = f"<h1>{both('R2D2 快速上手报告', 'R2D2 from nothing to search')}</h1>"
    tiles = "".join(f"<div><b>{metric}</b>{both(*label)}</div>" for metric, label in _headline_metrics(report))
    return f'<header>{title}{paragraph(*result_in_words(report), "lead")}<div class="headline">{tiles}</div></header>'


def result_in_words(report: Mapping[str, Any]) -> tuple[str, str]:
    """The result as one paragraph, in Chinese and in English; it claims a gain only where the interval allows."""
    retrieval = report["retrieval"]
    forward = retrieval["text_to_image"]
    before = forward["pre_ranking"]["R@1"]
    gallery = f"{retrieval['gallery']:,}"
    time_zh, time_en = duration(report["seconds"].get("train", 0))
    chinese = (
        f"预训练 {time_zh}后，在 {gallery} 张从未见过的图片中，粗排（双塔余弦）"
        f"使 {percent(before)}% 的描述第一个就找到自己的图片。"
    )
    english = (
        f"After {time_en} of pre-training, pre-ranking (the towers' cosine) puts the right one of {gallery} unseen "
        f"images first for {percent(before)} % of the texts."
    )
    gain = retrieval.get("gain_R@1")
    if not forward.get("ranking") or not gain:
        return (
            f"{chinese}这个模型没有交叉编码器，因此没有精排。",
            f"{english} This model has no cross encoders, hence no ranking stage.",
        )
    interval = f"{signed(gain['low'])} … {signed(gain['high'])}"
    after = percent(forward["ranking"]["R@1"])
    if gain["low"] > 0:
        verb_zh, verb_en = "提高到", "raises this to"
    elif gain["high"] < 0:
        verb_zh, verb_en = "降低到", "lowers this to"
    else:
        verb_zh, verb_en = "没有带来可靠的差别：", "makes no reliable difference:"
    chinese += f"精排（交叉编码器）{verb_zh} {after}%（{signed(gain['mean'])} 个百分点，95% 区间 {interval}）。"
    english += (
        f" Ranking (the cross encoders) {verb_en} {after} % ({signed(gain['mean'])} points, 95 % interval {interval})."
    )
    pairs = report.get("minimal_pairs")
    if pairs and "ranking" in pairs:
        towers, cross = percent(pairs["pre_ranking"]["all"]), percent(pairs["ranking"]["all"])
        chinese += f"在只交换了属性的 {pairs['pairs']:,} 个最小对上，精排认出 {cross}% 的真描述，双塔为 {towers}%。"
        english += (
            f" Of {pairs['pairs']:,} minimal pairs, whose false text only swaps attributes, ranking tells the true "
            f"text in {cross} %, the towers alone in {towers} %."
        )
    return chinese, english


def _headline_metrics(report: Mapping[str, Any]) -> list[tuple[str, tuple[str, str]]]:
    forward, gain = report["retrieval"]["text_to_image"], report["retrieval"].get("gain_R@1")
    unit = "<small>%</small>"
    metrics = [(percent(forward["pre_ranking"]["R@1"]) + unit, ("粗排 R@1", "R@1 of pre-ranking"))]
    if forward.get("ranking"):
        metrics.append((percent(forward["ranking"]["R@1"]) + unit, ("精排 R@1", "R@1 of ranking")))
    if gain:
        metrics.append((signed(gain["mean"]), ("精排的提升（百分点）", "points gained by ranking")))
    pairs = report.get("minimal_pairs", {})
    if "ranking" in pairs:
        metrics.append((percent(pairs["ranking"]["all"]) + unit, ("最小对（精排）", "minimal pairs by ranking")))
    return metrics


def retrieval_section(retrieval: Mapping[str, Any], off: Sequence[str]) -> str:
    """Recalls of both stages in both directions, and the gain of ranking."""
    rows = []
    stages = {stage: f'<i class="swatch {stage}"></i>{both(*label)}' for stage, label in STAGES.items()}
    for direction, label in DIRECTIONS.items():
        for stage, name in stages.items():
            values = retrieval[direction].get(stage) or {}
            cells = [percent(values.get(f"R@{k}")) for k in (1, 5, 10)]
            mean = percent(sum(values.values()) / len(values) if values else None)
            first = both(*label) if stage == "pre_ranking" else ""
            rows.append((first, name, *cells, mean, _gain(retrieval, direction, stage)))
    for stage, name in stages.items():
        first = both("双向", "Both directions") if stage == "pre_ranking" else ""
        rows.append((first, name, "", "", "", percent(retrieval["mean_recall"].get(stage)), ""))
    head = (
        both("方向", "Direction"), both("阶段", "Stage"), "R@1", "R@5", "R@10",
        both("平均召回", "Mean recall"), both("R@1 提升", "Gain in R@1"),
    )  # fmt: skip
    note = paragraph(
        f"图库 {retrieval['gallery']:,} 张图片、{retrieval['texts']:,} 条文本；精排阶段重排余弦最高的 "
        f"{retrieval['depth']} 个候选。单位为百分比；方括号内为按图片的 95% 区间。"
        f"相同的文本都算对（{retrieval.get('equal_texts', 0)} 句），其余同分按最不利计（equal_texts）。",
        f"{retrieval['gallery']:,} images and {retrieval['texts']:,} texts; ranking re-orders the "
        f"{retrieval['depth']} best by cosine. In percent; brackets hold the 95 % interval over images. "
        f"Equal texts are all right ({retrieval.get('equal_texts', 0)} of them); other ties count against the model "
        "(convention equal_texts).",
        "note",
    )
    warning = ""
    if "FGR" in off and retrieval["text_to_image"].get("ranking"):
        warning = paragraph(
            "注意：FGR 已关闭，匹配头没有受过训练，精排一行没有意义。",
            "Note: FGR was off, so nothing trained the match heads, and the ranking rows mean nothing.",
            "warning",
        )
    return section("两阶段检索", "Two-stage retrieval", table(head, rows, "metrics retrieval") + warning + note)


def _gain(retrieval: Mapping[str, Any], direction: str, stage: str) -> str:
    before, after = retrieval[direction]["pre_ranking"], retrieval[direction].get("ranking")
    if stage != "ranking" or not after:
        return ""
    interval = retrieval.get("gain_R@1") if direction == "text_to_image" else None
    if not interval:
        return signed(after["R@1"] - before["R@1"])
    low, high = signed(interval["low"]), signed(interval["high"])
    return f'{signed(interval["mean"])} <span class="muted">[{low}, {high}]</span>'


def _seconds_section(seconds: Mapping[str, float]) -> str:
    total = max(seconds.get("total", 0.0), 1e-9)
    rows = [
        (both(*label), both(*duration(seconds[part])), f"{100 * seconds[part] / total:.0f} %")
        for part, label in PARTS.items()
        if part in seconds
    ]
    head = (both("部分", "Part"), both("用时", "Time"), both("占比", "Share"))
    note = paragraph("中断后重新运行的时间已累计。", "Times add up over stops and re-runs.", "note")
    return section("用时", "Time", table(head, rows, "figures") + note)


def _machine_section(report: Mapping[str, Any]) -> str:
    machine, model = report["machine"], report["model"]
    versions = ", ".join(f"{name} {version}" for name, version in report["libraries"].items())
    parameters, steps = f"{model['parameters']:,}", f"{model['steps']:,}"
    rows = (
        (both("系统", "System"), escape(machine["system"])),
        (both("设备", "Device"), escape(f"{machine['device']}, {machine['cores']} cores")),
        ("Python", escape(machine["python"])),
        (both("版本", "Libraries"), escape(versions)),
        (both("模型", "Model"), both(f"{parameters} 个参数，{steps} 步", f"{parameters} parameters, {steps} steps")),
    )
    return section("机器与模型", "Machine and model", table(("", ""), rows, "words"))


def _next_section(commands: Sequence[Mapping[str, str]]) -> str:
    items = ""
    for line in commands:
        label = both(escape(line["zh"]), escape(line["en"]))
        items += f"<li>{label}<pre><code>{escape(line['command'])}</code></pre></li>"
    return section("接下来", "What to try next", f'<ul class="next">{items}</ul>')
