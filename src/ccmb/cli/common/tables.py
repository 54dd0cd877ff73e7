"""Reports as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def calibration_table(report: dict[str, Any]) -> str:
    """What calibration changes on the held-out half, as lines of text."""
    held_out = report["held_out"]
    pairs, temperature = report["pairs"], report["match_temperature"]
    lines = [f"match temperature {temperature:.3f}, fitted on {pairs} pairs, half of them matches"]
    rows = [[f"of the {held_out['pairs']} held out", "before", "after"]]
    for name in held_out["before"]:
        rows.append([name.replace("_", " "), *(f"{held_out[when][name]:.4f}" for when in ("before", "after"))])
    lines += aligned(rows, (24, 9, 9))
    if report.get("languages"):
        lines += aligned(_languages(report["languages"]), (24, 9, 9, 13))
    if report["at_bound"]:
        lines.append(
            "the temperature is at its bound; the AUC says whether the match score tells such pairs apart at all"
        )
    return "\n".join(lines)


def _languages(languages: dict[str, Any]) -> list[list[str]]:
    """The calibration error of each language by the common temperature and by its own."""
    rows = [["calibration error", "common", "own", "temperature"]]
    for tag, one in languages.items():
        if one["match_temperature"] is not None:
            errors = [f"{one[whose]['calibration_error']:.4f}" for whose in ("common", "own")]
            rows.append([tag, *errors, f"{one['match_temperature']:.3f}"])
    return rows


def comparison_table(report: dict[str, Any]) -> str:
    """Metrics before and after fine-tuning with their intervals, and those between, as lines of text."""
    rows, between = [["", "before", "after", "change"]], []
    for entry in report["sets"]:
        for name, metric in entry["figures"].items():
            label = f"{entry['name']} {entry['split']} {name.replace('_', '-')}"
            cells = [_with_interval(metric["before"]), _with_interval(metric["after"])]
            rows.append([label, *cells, _with_interval(metric["gain"], "+")])
            if metric["shares"]:
                values = ["-" if share is None else f"{share['value']:.1f}" for share in metric["shares"].values()]
                between.append((label, metric["shares"], values))
    lines = aligned(rows, (30, 23, 23, 23))
    if between:
        shares = [["share of the weights after", *between[0][1]], *([label, *values] for label, _, values in between)]
        lines += ["", *aligned(shares, (30, *[8] * len(between[0][1])))]
    for entry in report["sets"]:
        if mark := ((entry.get("seen") or {}).get("after") or {}).get("mark"):
            lines.append(f"{entry['name']} {entry['split']}: the model after {mark}")
    if report["chosen"]:
        lines.append(f"chosen by validation: step {report['chosen']['step']} of {report['steps']}")
    return "\n".join(lines)


def export_table(report: dict[str, Any]) -> str:
    """Speeds of torch and of an export, and where it was measured, what the export costs in recall."""
    rows = [["", "torch", "export", "times"]]
    for name, metrics in report["speed"].items():
        speeds = (f"{metrics[key]:.3g}" for key in ("torch", "export"))
        rows.append([name, *speeds, f"{metrics['times']:.2f}", f"  {metrics['unit']}"])
    if "recall" not in report:
        return "\n".join(aligned(rows, (22, 10, 10, 7)))
    recall = report["recall"]
    for stage, metrics in recall["difference"].items():
        means = (f"{recall[key]['mean_recall'][stage]:.2f}" for key in ("torch", "export"))
        gained = metrics["mean_recall"]
        ends = f"({gained['low']:+.2f} to {gained['high']:+.2f})"
        label = f"{stage.replace('_', '-')}, MR"
        rows.append([label, *means, f"{gained['points']:+.2f}", f"  points {ends}"])
    lines = aligned(rows, (22, 10, 10, 7))
    about = (
        f"{recall['data']}, {recall['split']}: {recall['torch']['gallery']} images, {recall['torch']['texts']} texts"
    )
    return "\n".join([*lines[: 1 + len(report["speed"])], about, *lines[1 + len(report["speed"]) :]])


def _with_interval(metric: dict[str, float] | None, sign: str = "") -> str:
    if metric is None:
        return "-"
    return f"{metric['value']:{sign}.1f} [{metric['low']:{sign}.1f}, {metric['high']:{sign}.1f}]"
