"""Recalls as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def retrieval_table(report: dict[str, Any]) -> str:
    """Both stages and directions as lines of text."""
    rows = [["", "", "R@1", "R@5", "R@10"]]
    for direction in ("text_to_image", "image_to_text"):
        for stage, values in report.get(direction, {}).items():  # one way alone where texts have several images
            metrics = [f"{value:.1f}" for value in values.values()] if values else ["-"] * 3
            rows.append([direction.replace("_", " "), stage.replace("_", "-"), *metrics])
    head = f"{report['gallery']} images, {report['texts']} texts, top {report['depth']} ranked"
    known = {stage: value for stage, value in report["mean_recall"].items() if value is not None}
    means = ", ".join(f"{stage.replace('_', '-')} {value}" for stage, value in known.items())
    return "\n".join([head, *aligned(rows, (16, 13, 7, 7, 7), left=2), f"mean recall: {means}", *_convention(report)])


def _convention(report: dict[str, Any]) -> list[str]:
    """A line on the convention of answers and ties, see `ccmb.inference.answers`; none for a report that lacks it."""
    if "convention" not in report:
        return []
    if report["convention"] == "official":
        return ["convention: official (an image's own texts alone are right, ties go by the order of the gallery)"]
    equal = f"; {report['equal_texts']} are equal to one of another image" if report["equal_texts"] else ""
    return [f"convention: equal_texts (equal texts are right, other ties count against the model){equal}"]
