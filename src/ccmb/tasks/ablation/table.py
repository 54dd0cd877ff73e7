"""An ablation as lines of text for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccmb.core.aligning import aligned
from ccmb.core.choices import OBJECTIVE_NAMES

Values = Mapping[str, Any]
METRIC = "mean_recall"
NOTE = (
    "mean ± standard deviation over seeds; differences with the 95 % interval over images, paired; * excludes zero; "
    "n/m: in n of m seeds the difference has this sign"
)


def ablation_table(report: Values) -> str:
    """The mean recall of both stages by rung, and what changed, for each field."""
    parts = []
    for field, values in report["fields"].items():
        head = ["rung", "pre-ranking", "ranking", "gain of ranking", "against", "change"]
        rows = [head, *(_row(entry, values["rungs"].get(entry["name"])) for entry in report["ladder"])]
        widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(head))]
        parts.append("\n".join([f"{title(report, field)}: mean recall", *aligned(rows, widths)]))
    return "\n\n".join([*parts, NOTE])


def title(report: Values, field: str) -> str:
    """The data of a field in words."""
    values, seeds = report["fields"][field], len(report["seeds"])
    return (
        f"{report['data']} {report['split']}, {field}: {values['images']:,} images, {values['texts']:,} texts, "
        f"top {report['rerank_k']} ranked, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def ablation_markdown(report: Values) -> str:
    """The tables of `ablation.md`: what each rung is, its recalls, and its differences."""
    lines = ["# Ablation", "", f"Recipe `{report['recipe']}`. {_sentence(NOTE)}", "", *_ladder(report)]
    for field, values in report["fields"].items():
        lines += ["", f"## {field}", "", f"{title(report, field)}.", "", *_recalls(report, values["rungs"])]
        lines += ["", *_changes(report, values["rungs"])]
    return "\n".join(lines) + "\n"


def last_stage(rung: Values) -> Values:
    """The metrics of the last stage that a rung has."""
    metrics: Values = rung["ranking"] or rung["pre_ranking"]
    return metrics


def centre(metric: Values | None) -> str:
    """`41.2 ± 0.5`, without a deviation where there is one seed."""
    if metric is None:
        return "-"
    return f"{metric['mean']:.1f}" + ("" if metric["std"] is None else f" ± {metric['std']:.1f}")


def change(metric: Values | None) -> str:
    """`+6.9 [+4.2, +9.6] * 3/3`."""
    if metric is None:
        return "-"
    mark = " *" if metric["excludes_zero"] else ""
    seeds = f" {metric['same_sign']}/{len(metric['seeds'])}" if len(metric["seeds"]) > 1 else ""
    return f"{metric['mean']:+.1f} [{metric['low']:+.1f}, {metric['high']:+.1f}]{mark}{seeds}"


def objectives_in_words(entry: Values) -> str:
    """The objectives of a rung as the paper writes them."""
    return " + ".join(OBJECTIVE_NAMES[name] for name in entry["objectives"])


def _row(entry: Values, rung: Values | None) -> list[str]:
    if rung is None:
        return [entry["name"], "failed", "-", "-", "-", "-"]
    stages = [centre(rung[stage] and rung[stage][METRIC]) for stage in ("pre_ranking", "ranking")]
    gained, to = rung["ranking_gain"], rung["to_previous"]
    against = [to["rung"], change(to["last_stage"][METRIC])] if to and to["last_stage"] else ["-", "-"]
    return [entry["name"], *stages, change(gained and gained[METRIC]), *against]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _ladder(report: Values) -> list[str]:
    rows = []
    for entry in report["ladder"]:
        changes = ", ".join(f"`{text}`" for text in entry["overrides"]) or "none: the recipe"
        minutes = "-" if entry["train_seconds"] is None else f"{entry['train_seconds'] / 60:.1f}"
        rows.append([entry["name"], objectives_in_words(entry), changes, minutes])
    return _markdown(["rung", "objectives", "changes to the recipe", "training, minutes"], rows, left=3)


def _recalls(report: Values, rungs: Values) -> list[str]:
    head, rows = ["rung", "MR, pre-ranking", "MR, ranking"], []
    shown = [rung for rung in rungs.values() if rung]
    names = [name for name in last_stage(shown[0]) if name != METRIC]
    for entry in report["ladder"]:
        rung = rungs.get(entry["name"])
        if rung is None:
            rows.append([entry["name"], "failed", *["-"] * (1 + len(names))])
            continue
        stages = [centre(rung[stage] and rung[stage][METRIC]) for stage in ("pre_ranking", "ranking")]
        rows.append([entry["name"], *stages, *(centre(last_stage(rung)[name]) for name in names)])
    return _markdown([*head, *(name.replace("_", " ") for name in names)], rows)


def _changes(report: Values, rungs: Values) -> list[str]:
    rows = []
    for name, rung in rungs.items():
        to, first, gained = rung["to_previous"], rung["to_first"], rung["ranking_gain"]
        cells = [to["rung"], change(to["last_stage"] and to["last_stage"][METRIC])] if to else ["-", "-"]
        from_first = change(first["last_stage"] and first["last_stage"][METRIC]) if first else "-"
        rows.append([name, *cells, from_first, change(gained and gained[METRIC])])
    first_rung = report["ladder"][0]["name"]
    head = ["rung", "compared with", "change of MR", f"change from {first_rung}", "gain of ranking, MR"]
    return _markdown(head, rows, left=2)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
