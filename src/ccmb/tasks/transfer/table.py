"""The transfer matrix as lines of text for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.core.aligning import aligned
from ccmb.tasks.retrieval.language_report import METRIC, STAGES, WAYS, main_metric

Values = Mapping[str, Any]


def transfer_table(report: Values) -> str:
    """The matrix: models by languages, with the metric of the last stage that each has."""
    names = list(report["columns"])
    rows = [["model", "trained on", *names, "elsewhere", "mean rank"]]
    for entry in report["models"]:
        cells = [cell(entry["metrics"].get(name)) for name in names]
        rows.append([entry["name"], training_in_words(entry), *cells, share(entry), _number(entry["mean_rank"])])
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    way, recall = METRIC
    head = f"{WAYS[way]} {recall}, {report['split']}, last stage of each model"
    return "\n".join([head, *aligned(rows, widths, left=2)])


def transfer_markdown(report: Values) -> str:
    """The matrix with intervals, one table for each stage."""
    lines = []
    way, recall = METRIC
    for stage in STAGES:
        entries = [entry for entry in report["models"] if any(one[stage] for one in entry["metrics"].values())]
        if entries:
            lines += [f"### {stage.replace('_', '-')}, {WAYS[way]} {recall}", ""]
            lines += _markdown(list(report["columns"]), entries, stage, way, recall)
    return "\n".join(lines)


def _markdown(names: Sequence[str], entries: Sequence[Values], stage: str, way: str, recall: str) -> list[str]:
    lines = [f"| model | trained on | {' | '.join(names)} |", f"|---|---|{'--:|' * len(names)}"]
    for entry in entries:
        cells = []
        for name in names:
            of_stage = entry["metrics"].get(name, {}).get(stage)
            metric = of_stage and of_stage[way][recall]
            cells.append(f"{metric['value']:.1f} [{metric['low']:.1f}, {metric['high']:.1f}]" if metric else "–")
        lines.append(f"| {entry['name']} | {training_in_words(entry)} | {' | '.join(cells)} |")
    return [*lines, ""]


def training_in_words(entry: Values) -> str:
    """Such as `zh`, or `zh, then ar (100 images)`."""
    words = ",".join(entry["trained_on"]) or "?"
    words += f" ({entry['images']:,} images)" if entry["images"] else ""
    return (
        f"{','.join(entry['after'])}, then {words}"
        if entry["after"] and entry["after"] != entry["trained_on"]
        else words
    )


def cell(values: Values | None) -> str:
    return _number(main_metric(values))


def share(entry: Values) -> str:
    """How much of the metric in its own languages a model keeps in the others, in percent."""
    kept = entry["share_of_own_elsewhere"]
    return "–" if kept is None else f"{100 * kept:.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
