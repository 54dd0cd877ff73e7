"""Reports as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def retrieval_table(report: dict[str, Any]) -> str:
    """Both stages and directions as lines of text."""
    rows = [["", "", "R@1", "R@5", "R@10"]]
    for direction in ("text_to_image", "image_to_text"):
        for stage, values in report.get(direction, {}).items():  # one way alone where texts have several images
            figures = [f"{value:.1f}" for value in values.values()] if values else ["-"] * 3
            rows.append([direction.replace("_", " "), stage.replace("_", "-"), *figures])
    head = f"{report['gallery']} pictures, {report['texts']} texts, top {report['depth']} ranked"
    known = {stage: value for stage, value in report["mean_recall"].items() if value is not None}
    means = ", ".join(f"{stage.replace('_', '-')} {value}" for stage, value in known.items())
    return "\n".join([head, *aligned(rows, (16, 13, 7, 7, 7), left=2), f"mean recall: {means}", *_convention(report)])


def _convention(report: dict[str, Any]) -> list[str]:
    """Which answers are right and how ties count, see `ccmb.inference.answers`; nothing of a report from before."""
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
    rows = [[f"of the {held_out['pairs']} held out", "before", "after"]]
    for name in held_out["before"]:
        rows.append([name.replace("_", " "), *(f"{held_out[when][name]:.4f}" for when in ("before", "after"))])
    lines += aligned(rows, (24, 9, 9))
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
    rows = [["", *of_stage]]
    for name, label in _MATCHING.items():
        known = [of.get(name) for of in of_stage.values()]
        if any(value is not None for value in known):
            cells = [
                "-" if value is None else f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
                for value, of in zip(known, of_stage.values(), strict=True)
                for low, high in [of["interval"].get(name, (0, 0))]
            ]
            rows.append([label, *cells])
    lines += aligned(rows, (36, *[24] * len(of_stage)))
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
    rows = [["", "top-1", "top-5", "mean per class"]]
    for stage, values in (("pre-ranking", report), ("ranking", report.get("ranking"))):
        if values:
            figures = (
                f"{values[name]:.1f} ({low:.1f} to {high:.1f})" for name, (low, high) in values["interval"].items()
            )
            rows.append([stage, *figures])
    return "\n".join(lines + aligned(rows, (13, 22, 22, 22)))


def captioning_table(report: dict[str, Any]) -> str:
    """Figures of captions as lines of text; of re-ranked ones beside those of the decoding alone."""
    lines = [f"{report['pictures']} pictures, {report['references']} references"]
    before, decode = report.get("before_reranking"), report["decoding"]["decode"]
    columns = {decode: before, "re-ranked": report} if before else {decode: report}
    rows = [["", *columns]]

    def row(label: str, values: list[float | None], digits: int = 2, after: str = "") -> None:
        if any(value is not None for value in values):
            rows.append([label, *("-" if value is None else f"{value:.{digits}f}" for value in values), after])

    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"):
        ends = report["interval"].get(name)
        row(name, [of[name] for of in columns.values()], after=f"  ({ends[0]:.1f} to {ends[1]:.1f})" if ends else "")
    for name in ("BLEU-4", "ROUGE-L", "CIDEr-D"):
        row(f"{name}, on words", [of["words"] and of["words"][name] for of in columns.values()])
    for name in ("distinct-1", "distinct-2", "length"):
        row(name, [of[name] for of in columns.values()])
    for name in ("match_score", "cosine"):
        row(name.replace("_", " "), [of[name] for of in columns.values()], digits=4)
    for name in report.get("things", {}):
        label = "things" if name == "things" else f"things: {name.replace('_', ' ')}"
        row(label, [of["things"][name] for of in columns.values()], digits=0 if name == "things" else 2)
    lines += aligned(rows, (28, *[12] * len(columns)))
    if report["CIDEr-D"] is None:
        lines.append("CIDEr-D needs two pictures or more: it weighs words by how few pictures have them")
    return "\n".join(lines)


def generation_table(report: dict[str, Any]) -> str:
    """Figures of painted pictures as lines of text; of chosen ones beside those that were painted first."""
    painting, first, gain = report["painting"], report.get("first"), report.get("gain", {})
    head = (
        f"{report['pictures']} pictures, {painting['steps']} steps, guidance {painting['guidance']:g}; "
        f"judge: {report['judge']}; features: {report['features']}"
    )
    columns = {"first": first, f"best of {painting['best_of']}": report} if first else {"": report}
    rows = [["", *columns]]
    for name in report["interval"]:
        low, high = report["interval"][name]
        after = f"  ({low:.1f} to {high:.1f})"
        if name in gain:
            mean, low, high = gain[name]
            after += f"  gain {mean:+.2f} ({low:+.1f} to {high:+.1f})"
        rows.append([name.replace("_", " "), *(f"{of[name]:.2f}" for of in columns.values()), after])
    for name in ("FID", "KID"):
        rows.append([name, *(f"{of[name]:.4f}" for of in columns.values())])
    return "\n".join([head, *aligned(rows, (28, *[14] * len(columns)))])


def comparison_table(report: dict[str, Any]) -> str:
    """Figures before and after fine-tuning with their intervals, and those between, as lines of text."""
    rows, between = [["", "before", "after", "change"]], []
    for of in report["sets"]:
        for name, figure in of["figures"].items():
            label = f"{of['name']} {of['split']} {name.replace('_', '-')}"
            cells = [_with_interval(figure["before"]), _with_interval(figure["after"])]
            rows.append([label, *cells, _with_interval(figure["gain"], "+")])
            if figure["shares"]:
                values = ["-" if found is None else f"{found['value']:.1f}" for found in figure["shares"].values()]
                between.append((label, figure["shares"], values))
    lines = aligned(rows, (30, 23, 23, 23))
    if between:
        shares = [["share of the weights after", *between[0][1]], *([label, *values] for label, _, values in between)]
        lines += ["", *aligned(shares, (30, *[8] * len(between[0][1])))]
    for of in report["sets"]:
        if mark := ((of.get("seen") or {}).get("after") or {}).get("mark"):
            lines.append(f"{of['name']} {of['split']}: the model after {mark}")
    if report["chosen"]:
        lines.append(f"chosen by validation: step {report['chosen']['step']} of {report['steps']}")
    return "\n".join(lines)


def export_table(report: dict[str, Any]) -> str:
    """Speeds of torch and of an export, and where it was measured, what the export costs in recall."""
    rows = [["", "torch", "export", "times"]]
    for name, figures in report["speed"].items():
        speeds = (f"{figures[key]:.3g}" for key in ("torch", "export"))
        rows.append([name, *speeds, f"{figures['times']:.2f}", f"  {figures['unit']}"])
    if "recall" not in report:
        return "\n".join(aligned(rows, (22, 10, 10, 7)))
    of = report["recall"]
    for stage, figures in of["difference"].items():
        means = (f"{of[key]['mean_recall'][stage]:.2f}" for key in ("torch", "export"))
        gained = figures["mean_recall"]
        ends = f"({gained['low']:+.2f} to {gained['high']:+.2f})"
        label = f"{stage.replace('_', '-')}, MR"
        rows.append([label, *means, f"{gained['points']:+.2f}", f"  points {ends}"])
    lines = aligned(rows, (22, 10, 10, 7))
    about = f"{of['data']}, {of['split']}: {of['torch']['gallery']} pictures, {of['torch']['texts']} texts"
    return "\n".join([*lines[: 1 + len(report["speed"])], about, *lines[1 + len(report["speed"]) :]])


def _with_interval(figure: dict[str, float] | None, sign: str = "") -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:{sign}.1f} [{figure['low']:{sign}.1f}, {figure['high']:{sign}.1f}]"
