"""The report's part on zero-shot classification: the trained network beside the untrained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccmb.report.markup import both, paragraph, percent, section, table

ATTRIBUTES = {"kind": ("种类", "kinds"), "colour": ("颜色", "colours")}
STATES = {"trained": ("训练后", "trained"), "untrained": ("训练前", "untrained")}


def classes_section(drawn: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Accuracies with their intervals, by attribute and by state of the network."""
    rows = []
    for attribute, by_state in drawn.items():
        for state, metrics in by_state.items():
            classes = both(f"{ATTRIBUTES[attribute][0]}（{metrics['classes']} 类）",
                           f"{metrics['classes']} {ATTRIBUTES[attribute][1]}")  # fmt: skip
            rows.append(
                (
                    classes if state == "trained" else "",
                    both(*STATES[state]),
                    *(_with_interval(metrics, name) for name in ("top1", "top5")),
                )
            )
    head = (both("类别", "Classes"), both("网络", "Network"), "Top-1", "Top-5")
    images = next(iter(next(iter(drawn.values())).values()))["pictures"]
    what = paragraph(
        f"每张图只画一样东西（{images:,} 张一组），训练语料里没有这样的图。"
        "模型只凭类别的中文名字来认，没有见过任何类别标签。",
        f"Images of one thing alone ({images:,} a set), of which the corpus has none. The model goes by the "
        "Chinese name of each class and has seen no labels.",
    )
    note = paragraph(
        "单位为百分比；方括号内为 95% 区间。",
        "In percent; brackets hold the 95 % interval.",
        "note",
    )
    return section("零样本分类", "Zero-shot classification", what + table(head, rows, "figures") + note)


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics["interval"][name]
    return f'{percent(metrics[name])} <span class="muted">[{percent(low)}, {percent(high)}]</span>'
