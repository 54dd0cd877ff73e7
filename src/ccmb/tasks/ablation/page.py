"""An ablation as a page: dots with whiskers by rung, differences, tables, and the curves of one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.report.document import document
from ccmb.report.dots import Dot, dot_chart
from ccmb.report.markup import both, duration, escape, paragraph, percent, section, signed, table
from ccmb.tasks.ablation.table import METRIC, last_stage, objectives_in_words
from ccmb.training.runs.page import curves_section, runs_section
from ccmb.training.runs.run_folder import Run

Values = Mapping[str, Any]
COLOURS = {"pre_ranking": "first", "ranking": "second"}
KEY = (
    '<p class="key"><span><i class="swatch"></i>'
    + both("粗排", "pre-ranking")
    + '</span><span><i class="swatch ranking"></i>'
    + both("精排", "ranking")
    + "</span></p>"
)


def ablation_page(report: Values, runs: Sequence[Run]) -> str:
    """The whole page.

    Args:
        report: what `ablation.json` holds.
        runs: one of each rung that has one, whose curves are drawn.
    """
    body = [_header(report), _ladder_section(report)]
    for field, values in report["fields"].items():
        body += [_metrics_section(report, field, values), _changes_section(field, values)]
    return document("CCMB ablate", [*body, *_curves(runs)])


def change_in_words(name: str, rung: Values) -> tuple[str, str] | None:
    """How a rung differs from the one before, in Chinese and in English; a gain or a loss only where the interval
    allows it."""
    to = rung["to_previous"]
    metric = to and to["last_stage"] and to["last_stage"][METRIC]
    if not metric:
        return None
    other, change = escape(to["rung"]), f"{signed(metric['mean'])} [{signed(metric['low'])}, {signed(metric['high'])}]"
    if metric["excludes_zero"]:
        verb_zh, verb_en = ("高于", "is above") if metric["mean"] > 0 else ("低于", "is below")
        return f"{escape(name)} {verb_zh} {other}（{change}）。", f"{escape(name)} {verb_en} {other} ({change})."
    return (
        f"{escape(name)} 与 {other} 没有可靠的差别（{change}）。",
        f"{escape(name)} does not differ reliably from {other} ({change}).",
    )


def _header(report: Values) -> str:
    seeds, names = len(report["seeds"]), "、".join(map(escape, report["fields"]))
    english_names = ", ".join(map(escape, report["fields"]))
    data, recipe = escape(f"{report['data']}, {report['split']}"), escape(report["recipe"])
    about = paragraph(
        f"配方 {recipe}，{seeds} 个随机种子；在 {data} 上评测（{names}），精排前 {report['rerank_k']} 个候选。",
        f"Recipe {recipe}, {seeds} seed{'s' if seeds > 1 else ''}; measured on {data} ({english_names}), "
        f"top {report['rerank_k']} ranked.",
    )
    words = ""
    for field, values in report["fields"].items():
        sentences = [pair for name, rung in values["rungs"].items() if (pair := change_in_words(name, rung))]
        if sentences:
            chinese, english = ("".join(pair[0] for pair in sentences), " ".join(pair[1] for pair in sentences))
            words += paragraph(f"<b>{escape(field)}</b>：{chinese}", f"<b>{escape(field)}</b>: {english}")
    missing = [f"{entry['name']} seed {seed}: {why}" for entry in report["ladder"] for seed, why in _failed(entry)]
    if missing:
        lines = "<br>".join(map(escape, missing))
        words += paragraph(f"失败的训练：<br>{lines}", f"Runs that failed:<br>{lines}", "warning")
    return f"<header><h1>{both('消融实验', 'Ablation')}</h1>{about}{words}</header>"


def _failed(entry: Values) -> list[tuple[str, str]]:
    return list(entry["failed"].items())


def _ladder_section(report: Values) -> str:
    rows = []
    for entry in report["ladder"]:
        changes = "<br>".join(f"<code>{escape(text)}</code>" for text in entry["overrides"])
        time = "–" if entry["train_seconds"] is None else both(*duration(entry["train_seconds"]))
        rows.append(
            (escape(entry["name"]), escape(objectives_in_words(entry)), changes or both("配方本身", "the recipe"), time)
        )
    head = (
        both("变体", "Rung"), both("训练目标", "Objectives"), both("对配方的改动", "Changes to the recipe"),
        both("平均训练时间", "Mean training time"),
    )  # fmt: skip
    return section("变体", "Rungs", table(head, rows, "words keys"))


def _metrics_section(report: Values, field: str, values: Values) -> str:
    rows = []
    for name, rung in values["rungs"].items():
        stages = [(stage, rung[stage][METRIC]) for stage in COLOURS if rung[stage]]
        rows.append((name, [_dot(COLOURS[stage], metric, f"{name}, {stage}") for stage, metric in stages]))
    chart = dot_chart(rows, f"{field}: mean recall by rung")
    note = paragraph(
        "平均召回（%）。大点为各随机种子的均值，小点为单个种子，横线为对图片重采样的 95% 置信区间。",
        "Mean recall in percent. Large dots: means over seeds; small dots: single seeds; lines: 95 % intervals over "
        "images.",
        "note",
    )
    size_zh = f"{values['images']:,} 张图片，{values['texts']:,} 条文本。"
    size_en = f"{values['images']:,} images, {values['texts']:,} texts."
    body = f'{paragraph(size_zh, size_en)}{KEY}<figure class="scroll">{chart}</figure>{note}'
    return section(f"召回：{escape(field)}", f"Recalls: {escape(field)}", body + _recalls(report, values))


def _dot(kind: str, metric: Values, title: str, form: Any = percent) -> Dot:
    words = f"{title}: {form(metric['mean'])} [{form(metric['low'])}, {form(metric['high'])}]"
    points = list(metric["seeds"].values())
    return Dot(kind, metric["mean"], low=metric["low"], high=metric["high"], points=points, title=words)


def _recalls(report: Values, values: Values) -> str:
    """R@k of the last stage of each rung."""
    rungs: Values = values["rungs"]
    names = [name for name in last_stage(next(iter(rungs.values()))) if name != METRIC]
    arrows = {"text_to_image": ("文→图", "T→I"), "image_to_text": ("图→文", "I→T")}  # narrow: six columns
    rows = []
    for entry in report["ladder"]:
        rung = rungs.get(entry["name"])
        cells = [_centre(last_stage(rung)[name]) for name in names] if rung else ["–"] * len(names)
        rows.append((escape(entry["name"]), *cells))
    labels = []
    for name in names:
        way, _, recall = name.rpartition("_")
        labels.append(both(f"{arrows[way][0]} {recall}", f"{arrows[way][1]} {recall}"))
    note = paragraph(
        "每个变体最后一个阶段的结果；文→图为文搜图，图→文为图搜文；± 为各种子间的标准差。",
        "The last stage of each rung; T→I: texts search images, I→T: images search texts; ± is the standard deviation "
        "over seeds.",
        "note",
    )
    return table((both("变体", "Rung"), *labels), rows, "figures all") + note


def _changes_section(field: str, values: Values) -> str:
    dots, rows = [], []
    for name, rung in values["rungs"].items():
        to, first, gained = (rung[key] for key in ("to_previous", "to_first", "ranking_gain"))
        change = to and to["last_stage"] and to["last_stage"][METRIC]
        from_first = first and first["last_stage"] and first["last_stage"][METRIC]
        if change:
            dots.append((name, [_dot(_colour_of_change(change), change, f"{name} - {to['rung']}", signed)]))
        cells = (_change(change), _change(from_first), _change(gained and gained[METRIC]))
        rows.append((escape(name), escape(to["rung"]) if to else "–", *cells))
    chart = ""
    if dots:
        drawn = dot_chart(dots, f"{field}: change of mean recall", zero=True)
        chart = f'<figure class="scroll">{drawn}</figure>'
    head = (
        both("变体", "Rung"), both("对照", "Compared with"), both("平均召回的变化", "Change of mean recall"),
        both("相对第一个变体", "Change from the first"), both("精排的增益", "Gain of ranking"),
    )  # fmt: skip
    note = paragraph(
        "各变体最后一个阶段的平均召回之差（百分点）；方括号内为 95% 置信区间，在同一批图片上成对计算。"
        "粗体：区间不含零。分数：差值符号一致的种子数。区间只反映换一批图片会怎样，换种子的影响看小点与标准差。",
        "Differences of the last stages' mean recall in points; brackets hold 95 % intervals, paired over the same "
        "images. Bold: the interval excludes zero. Fractions: in how many seeds the difference has its sign. The "
        "intervals say what other images would change; what other seeds would, dots and deviations say.",
        "note",
    )
    return section(
        f"差别：{escape(field)}", f"Differences: {escape(field)}", chart + table(head, rows, "figures") + note
    )


def _curves(runs: Sequence[Run]) -> list[str]:
    return [runs_section(runs), curves_section(runs)] if runs else []


def _colour_of_change(change: Values) -> str:
    if not change["excludes_zero"]:
        return "open"
    return "good" if change["mean"] > 0 else "bad"


def _centre(metric: Values) -> str:
    spread = "" if metric["std"] is None else f' <span class="muted">± {percent(metric["std"])}</span>'
    return f"{percent(metric['mean'])}{spread}"


def _change(metric: Values | None) -> str:
    if not metric:
        return "–"
    value = signed(metric["mean"])
    value = f"<b>{value}</b>" if metric["excludes_zero"] else value
    seeds = f" {metric['same_sign']}/{len(metric['seeds'])}" if len(metric["seeds"]) > 1 else ""
    return f'{value} <span class="muted">[{signed(metric["low"])}, {signed(metric["high"])}]{seeds}</span>'
