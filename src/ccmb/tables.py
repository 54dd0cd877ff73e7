"""Reports as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any


def retrieval_table(report: dict[str, Any]) -> str:
    """Both stages and directions as lines of text."""
    lines = [f"{report['gallery']} pictures, {report['texts']} texts, top {report['depth']} ranked"]
    lines.append(f"{'':16}{'':13}{'R@1':>7}{'R@5':>7}{'R@10':>7}")
    for direction in ("text_to_image", "image_to_text"):
        for stage, values in report[direction].items():
            figures = "".join(f"{value:7.1f}" for value in values.values()) if values else "      -" * 3
            lines.append(f"{direction.replace('_', ' '):16}{stage.replace('_', '-'):13}{figures}")
    means = ", ".join(f"{stage.replace('_', '-')} {value}" for stage, value in report["mean_recall"].items() if value)
    return "\n".join([*lines, f"mean recall: {means}", *_convention(report)])


def _convention(report: dict[str, Any]) -> list[str]:
    """Which answers are right and how ties count, see `ccmb.tasks.answers`; nothing of a report from before."""
    if "convention" not in report:
        return []
    if report["convention"] == "official":
        return ["convention: official (an image's own texts alone are right, ties go by the order of the gallery)"]
    equal = f"; {report['equal_texts']} are equal to one of another image" if report["equal_texts"] else ""
    return [f"convention: equal_texts (equal texts are right, other ties count against the model){equal}"]


def calibration_table(report: dict[str, Any]) -> str:
    """What calibration changes on the held-out half, as lines of text."""
    held_out = report["held_out"]
    pairs, temperature = report["pairs"], report["match_temperature"]
    lines = [f"match temperature {temperature:.3f}, fitted on {pairs} pairs, half of them matches"]
    lines.append(f"{'of the ' + str(held_out['pairs']) + ' held out':24}{'before':>9}{'after':>9}")
    for name in held_out["before"]:
        lines.append(f"{name.replace('_', ' '):24}{held_out['before'][name]:9.4f}{held_out['after'][name]:9.4f}")
    if report["at_bound"]:
        lines.append(
            "the temperature is at its bound; the AUC says whether the match score tells such pairs apart at all"
        )
    return "\n".join(lines)


def matching_table(report: dict[str, Any]) -> str:
    """Figures of labelled pairs with their intervals, in percent, as lines of text."""
    lines = [f"{report['pairs']} pairs of {report['pictures']} pictures, {report['matches']} of them matches"]
    ranks = report["stage"] == "ranking"
    lines[0] += "" if ranks else "; no cross encoders, so the cosine alone scores them"
    of_stage = {"ranking": report, "pre-ranking": report["pre_ranking"]} if ranks else {"pre-ranking": report}
    lines.append(f"{'':36}" + "".join(f"{stage:>24}" for stage in of_stage))
    for name, label in _MATCHING.items():
        known = [of.get(name) for of in of_stage.values()]
        if any(value is not None for value in known):
            cells = [
                "-" if value is None else f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
                for value, of in zip(known, of_stage.values(), strict=True)
                for low, high in [of["interval"].get(name, (0, 0))]
            ]
            lines.append(f"{label:36}" + "".join(f"{cell:>24}" for cell in cells))
    fitted = report["fitted"]
    lines.append(f"fitted on {fitted['on']}" if fitted else "too little of both labels to fit a threshold on")
    return "\n".join(lines)


_MATCHING = {
    "auc": "AUC",
    "accuracy": "accuracy at probability 0.5",
    "accuracy_fitted": "accuracy at a fitted threshold",
    "calibration_error": "calibration error",
    "calibration_error_fitted": "calibration error, fitted",
}


def classification_table(report: dict[str, Any]) -> str:
    """Accuracies of both stages with their intervals, as lines of text."""
    lines = [f"{report['pictures']} pictures, {report['classes']} classes"]
    if report["classes_with_pictures"] < report["classes"]:
        lines[0] += f", {report['classes_with_pictures']} of them with pictures"
    lines.append(f"{'':13}{'top-1':>22}{'top-5':>22}{'mean per class':>22}")
    for stage, values in (("pre-ranking", report), ("ranking", report.get("ranking"))):
        if values:
            figures = (
                f"{values[name]:.1f} ({low:.1f} to {high:.1f})" for name, (low, high) in values["interval"].items()
            )
            lines.append(f"{stage:13}" + "".join(f"{figure:>22}" for figure in figures))
    return "\n".join(lines)


def captioning_table(report: dict[str, Any]) -> str:
    """Figures of captions as lines of text; of re-ranked ones beside those of the decoding alone."""
    lines = [f"{report['pictures']} pictures, {report['references']} references"]
    before, decode = report.get("before_reranking"), report["decoding"]["decode"]
    columns = {decode: before, "re-ranked": report} if before else {decode: report}
    lines.append(f"{'':28}" + "".join(f"{name:>12}" for name in columns))

    def row(label: str, values: list[float | None], digits: int = 2) -> None:
        if any(value is not None for value in values):
            cells = ("-" if value is None else f"{value:.{digits}f}" for value in values)
            lines.append(f"{label:28}" + "".join(f"{cell:>12}" for cell in cells))

    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"):
        low, high = report["interval"][name]
        row(name, [of[name] for of in columns.values()])
        lines[-1] += f"  ({low:.1f} to {high:.1f})"
    for name in ("BLEU-4", "ROUGE-L", "CIDEr-D"):
        row(f"{name}, on words", [of["words"] and of["words"][name] for of in columns.values()])
    for name in ("distinct-1", "distinct-2", "length"):
        row(name, [of[name] for of in columns.values()])
    for name in ("match_score", "cosine"):
        row(name.replace("_", " "), [of[name] for of in columns.values()], digits=4)
    for name in report.get("things", {}):
        label = "things" if name == "things" else f"things: {name.replace('_', ' ')}"
        row(label, [of["things"][name] for of in columns.values()], digits=0 if name == "things" else 2)
    return "\n".join(lines)


def generation_table(report: dict[str, Any]) -> str:
    """Figures of painted pictures as lines of text; of chosen ones beside those that were painted first."""
    painting, first, gain = report["painting"], report.get("first"), report.get("gain", {})
    lines = [
        f"{report['pictures']} pictures, {painting['steps']} steps, guidance {painting['guidance']:g}; "
        f"judge: {report['judge']}; features: {report['features']}"
    ]
    columns = {"first": first, f"best of {painting['best_of']}": report} if first else {"": report}
    lines.append(f"{'':28}" + "".join(f"{name:>14}" for name in columns))
    for name in report["interval"]:
        low, high = report["interval"][name]
        cells = "".join(f"{of[name]:14.2f}" for of in columns.values())
        lines.append(f"{name.replace('_', ' '):28}{cells}  ({low:.1f} to {high:.1f})")
        if name in gain:
            mean, low, high = gain[name]
            lines[-1] += f"  gain {mean:+.2f} ({low:+.1f} to {high:+.1f})"
    for name in ("FID", "KID"):
        lines.append(f"{name:28}" + "".join(f"{of[name]:14.4f}" for of in columns.values()))
    return "\n".join(lines)


def comparison_table(report: dict[str, Any]) -> str:
    """Figures before and after fine-tuning with their intervals, and those between, as lines of text."""
    lines = [f"{'':30}{'before':>23}{'after':>23}{'change':>23}"]
    between = []
    for of in report["sets"]:
        for name, figure in of["figures"].items():
            label = f"{of['name']} {of['split']} {name.replace('_', '-')}"
            cells = [_with_interval(figure["before"]), _with_interval(figure["after"])]
            lines.append(
                f"{label:30}" + "".join(f"{cell:>23}" for cell in [*cells, _with_interval(figure["gain"], "+")])
            )
            if figure["shares"]:
                values = ("-" if found is None else f"{found['value']:.1f}" for found in figure["shares"].values())
                between.append((label, figure["shares"], "".join(f"{value:>8}" for value in values)))
    if between:
        lines += ["", f"{'share of the weights after':30}" + "".join(f"{share:>8}" for share in between[0][1])]
        lines += [f"{label:30}{values}" for label, _, values in between]
    for of in report["sets"]:
        if mark := ((of.get("seen") or {}).get("after") or {}).get("mark"):
            lines.append(f"{of['name']} {of['split']}: the model after {mark}")
    if report["chosen"]:
        lines.append(f"chosen by validation: step {report['chosen']['step']} of {report['steps']}")
    return "\n".join(lines)


def export_table(report: dict[str, Any]) -> str:
    """Speeds of torch and of an export, and where it was measured, what the export costs in recall."""
    lines = [f"{'':22}{'torch':>10}{'export':>10}{'times':>7}"]
    for name, figures in report["speed"].items():
        speeds = "".join(f"{figures[key]:10.3g}" for key in ("torch", "export"))
        lines.append(f"{name:22}{speeds}{figures['times']:7.2f}  {figures['unit']}")
    if "recall" in report:
        of = report["recall"]
        lines.append(f"{of['data']}, {of['split']}: {of['torch']['gallery']} pictures, {of['torch']['texts']} texts")
        for stage, figures in of["difference"].items():
            means = "".join(f"{of[key]['mean_recall'][stage]:10.2f}" for key in ("torch", "export"))
            gained = figures["mean_recall"]
            lines.append(
                f"{stage.replace('_', '-') + ', MR':22}{means}{gained['points']:+7.2f}  points "
                f"({gained['low']:+.2f} to {gained['high']:+.2f})"
            )
    return "\n".join(lines)


def _with_interval(figure: dict[str, float] | None, sign: str = "") -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:{sign}.1f} [{figure['low']:{sign}.1f}, {figure['high']:{sign}.1f}]"
