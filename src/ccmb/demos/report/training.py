"""The report's parts on training: the curve of every objective, and which objectives were on."""

from __future__ import annotations

from collections.abc import Sequence

from ccmb.core.choices import OBJECTIVE_NAMES
from ccmb.report.charts import Point, Range, line_chart
from ccmb.report.markup import both, escape, format_number, paragraph, section, table

WHAT_THEY_DO = {
    "GCPR": ("全局对比粗排：两塔的余弦相似度", "global contrastive pre-ranking: the towers' cosine"),
    "FGR": ("细粒度精排：交叉编码器判断图文是否相符", "fine-grained ranking: the cross encoders' match or no match"),
    "MLM": ("掩码语言模型：看图补词", "masked language modelling: hidden words from the image"),
    "TgD": ("目标引导蒸馏：教师给出软目标", "target-guided distillation: the teacher's soft targets"),
    "FgD": ("特征引导蒸馏：遮词文本贴近教师特征", "feature-guided distillation: masked text to the teacher's features"),
}
FURTHER = {
    "loss": ("总损失", "weighted sum"),
    "temperature": ("温度 τ", "temperature τ"),
    "samples_per_second": ("每秒样本数", "samples per second"),
}


def curves_section(metrics: Sequence[dict[str, float]], off: Sequence[str], steps: int) -> str:
    """One small chart for each objective, then for the sum, the temperature and the speed."""
    if not metrics:
        return section("训练曲线", "Training", paragraph("没有训练记录。", "There is no training log."))
    x = (0, steps)
    smooth = max(1, len(metrics) // 16)
    panels = [
        _panel(metrics, key, title=name, label=name, x=x, off=name in off, smooth=smooth)
        for key, name in OBJECTIVE_NAMES.items()
    ]
    # The sum and the speed jump where an objective joins, which a moving mean would blur.
    panels += [_panel(metrics, key, both(*label), label[1], x) for key, label in FURTHER.items()]
    note = paragraph(
        "横轴为训练步数。细线为每次记录的值，粗线为滑动平均；晚加入的目标从加入那一步画起。",
        "Across: training steps. Thin: values as logged; bold: their moving mean. "
        "An objective that joins later starts where it joined.",
        "note",
    )
    return section("训练曲线", "Training", f'<div class="panels">{"".join(panels)}</div>{note}')


def objectives_section(on: Sequence[str], off: Sequence[str], metrics: Sequence[dict[str, float]]) -> str:
    """The state of the paper's five objectives: on (and since which step) or off."""
    rows = []
    for key, name in OBJECTIVE_NAMES.items():
        if name in off:
            state = f'<span class="state off">{both("关闭", "off")}</span>'
        elif name in on:
            state = f'<span class="state on">{both("开启", "on")}</span> {_since(metrics, key)}'
        else:
            continue
        rows.append((escape(name), both(*WHAT_THEY_DO[name]), state))
    sentence = paragraph("五个目标全部开启。", "All five objectives of the paper were on.")
    if off:
        chinese, english = escape("、".join(off)), escape(", ".join(off))
        sentence = paragraph(f"关闭的目标：<strong>{chinese}</strong>。", f"Switched off: <strong>{english}</strong>.")
    head = (both("目标", "Objective"), both("含义", "What it does"), both("状态", "State"))
    return section("训练目标", "Objectives", sentence + table(head, rows, "words"))


def _panel(
    metrics: Sequence[dict[str, float]], key: str, title: str, label: str, x: Range, off: bool = False, smooth: int = 1
) -> str:
    points: list[Point] = [(line["step"], line[key]) for line in metrics if isinstance(line.get(key), int | float)]
    if points:
        change = f"{format_number(_rounded(points[0][1]))} → {format_number(_rounded(points[-1][1]))}"
        body = line_chart(points, x, f"{label}: {change}", smooth)
    else:
        change = ""
        reason = both("关闭", "switched off") if off else both("未参与", "never joined")
        body = f'<div class="empty">{reason}</div>'
    return f'<figure><figcaption><b>{title}</b><span class="figure">{change}</span></figcaption>{body}</figure>'


def _since(metrics: Sequence[dict[str, float]], key: str) -> str:
    first = next((line["step"] for line in metrics if key in line), None)
    if first is None or first == metrics[0]["step"]:
        return ""
    return f'<span class="muted">{both(f"约第 {first:.0f} 步起", f"from about step {first:.0f}")}</span>'


def _rounded(value: float) -> float:
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)
