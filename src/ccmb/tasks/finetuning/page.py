"""The report page of a fine-tuning: what it gained, what it cost elsewhere, and how it went."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ccmb.report.document import document
from ccmb.report.markup import both, duration, escape, paragraph, percent, section, signed, table
from ccmb.training.runs.page import curves_section
from ccmb.training.runs.run_folder import Run

Labels = Mapping[str, tuple[str, str]]


def finetuned_page(report: Mapping[str, Any], run: Run, labels: Labels) -> str:
    """The whole page.

    Args:
        report: what `finetune.json` holds.
        run: the log.
        labels: what people read for the names of metrics, in Chinese and English.
    """
    body = [_summary(report, labels), _metrics_section(report, labels)]
    if any(_shares(entry) for entry in report["sets"]):
        body.append(_shares_section(report, labels))
    return document("CCMB finetune", [*body, curves_section([run])])


def result_in_words(report: Mapping[str, Any], labels: Labels) -> tuple[str, str]:
    """What happened on each set, in Chinese and in English; a gain or a loss only where the interval allows it."""
    chinese, english = [], []
    for entry in report["sets"]:
        name, metric = _last(entry)
        title, zh, en = escape(_title(entry)), *labels.get(name, (name, name))
        before, after, gain = (metric[key] for key in ("before", "after", "gain"))
        if before is None or gain is None:
            chinese.append(f"{title}：{zh} {percent(after['value'])}%（起点模型没有这一阶段）。")
            english.append(f"{title}: {en} {percent(after['value'])} %; the model before had no such stage.")
            continue
        if gain["low"] > 0:
            verb_zh, verb_en = "提高", "rose"
        elif gain["high"] < 0:
            verb_zh, verb_en = "下降", "fell"
        else:
            verb_zh, verb_en = "没有可靠的变化", "did not change reliably"
        values = f"{percent(before['value'])} → {percent(after['value'])} %"
        change = f"{signed(gain['value'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
        chinese.append(f"{title}：{zh}{verb_zh}，{values}（{change}）。")
        english.append(f"{title}: {en} {verb_en}, {values} ({change}).")
    return "".join(chinese), " ".join(english)


def _summary(report: Mapping[str, Any], labels: Labels) -> str:
    title = f"<h1>{both('微调报告', 'Fine-tuning')}</h1>"
    time_zh, time_en = duration(report["seconds"]["train"] or 0.0)
    model, steps, chosen = escape(report["before"]), f"{report['steps']:,}", report["chosen"]
    of_zh = f"，取验证集上最好的第 {chosen['step']:,} 步" if chosen else ""
    of_en = f"; the weights are those of step {chosen['step']:,}, the best on validation" if chosen else ""
    words = result_in_words(report, labels)
    return (
        f"<header>{title}"
        + paragraph(f"起点 {model}，{steps} 步，{time_zh}{of_zh}。", f"From {model}, {steps} steps, {time_en}{of_en}.")
        + (paragraph(*words, "lead") if any(words) else "")
        + "</header>"
    )


def _metrics_section(report: Mapping[str, Any], labels: Labels) -> str:
    rows = []
    for entry in report["sets"]:
        for name, metric in entry["figures"].items():
            label = both(*labels.get(name, (name, name)))
            cells = (_cell(metric["before"]), _cell(metric["after"]), _cell(metric["gain"], signed))
            rows.append((escape(_title(entry)), label, *cells))
    head = (
        both("数据", "Data"), both("指标", "Figure"), both("微调前", "Before"), both("微调后", "After"),
        both("变化", "Change"),
    )  # fmt: skip
    note = paragraph(
        "单位为百分比；方括号内为 95% 区间，变化的区间在同一批图片上成对计算。模型只按验证集选择。",
        "In percent; brackets hold 95 % intervals, those of the change paired over the same images. Only "
        "validation has chosen anything.",
        "note",
    )
    conventions = {entry.get("details", {}).get("after", {}).get("convention") for entry in report["sets"]} - {None}
    if conventions:  # of retrieval
        named = ", ".join(sorted(conventions))
        note += paragraph(f"检索的答案约定：{named}。", f"Convention of retrieval's answers: {named}.", "note")
    return section("微调前后", "Before and after", table(head, rows, "figures") + note)


def _shares_section(report: Mapping[str, Any], labels: Labels) -> str:
    shares = next(list(values) for entry in report["sets"] if (values := _shares(entry)))
    rows = []
    for entry in report["sets"]:
        for name, metric in entry["figures"].items():
            label = both(*labels.get(name, (name, name)))
            rows.append((escape(_title(entry)), label, *(_cell(metric["shares"].get(share)) for share in shares)))
    head = (both("数据", "Data"), both("指标", "Figure"), *shares)
    command = f"ccmb mix {shlex.quote(report['before'])} {shlex.quote(report['after'])} --share 0.5 --out mixed"
    note = paragraph(
        "微调后权重所占的份额：0 为微调前，1 为微调后。",
        "Share of the fine-tuned weights: 0 is before, 1 is after.",
        "note",
    )
    body = table(head, rows, "figures") + note + f"<pre><code>{escape(command)}</code></pre>"
    return section("两个模型之间", "Between the two models", body)


def _last(entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The metric of the last stage."""
    name = list(entry["figures"])[-1]
    return name, entry["figures"][name]


def _title(entry: Mapping[str, Any]) -> str:
    """The set and its split, and how many of its images the model after was trained on, where it was."""
    mark = ((entry.get("seen") or {}).get("after") or {}).get("mark")
    return f"{entry['name']}, {entry['split']}" + (f" (⚠ {mark})" if mark else "")


def _shares(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((metric["shares"] for metric in entry["figures"].values()), {})


def _cell(metric: Mapping[str, float] | None, form: Any = percent) -> str:
    if metric is None:
        return "–"
    low, high = form(metric["low"]), form(metric["high"])
    return f'{form(metric["value"])} <span class="muted">[{low}, {high}]</span>'
