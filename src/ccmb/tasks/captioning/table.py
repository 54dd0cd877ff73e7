"""Metrics of captions as lines of text, for the terminal."""

from __future__ import annotations

from typing import Any

from ccmb.core.aligning import aligned


def captioning_table(report: dict[str, Any]) -> str:
    """Metrics of captions as lines of text: re-ranked captions beside those of the decoding alone."""
    lines = [f"{report['pictures']} images, {report['references']} references"]
    before, decode = report.get("before_reranking"), report["decoding"]["decode"]
    columns = {decode: before, "re-ranked": report} if before else {decode: report}
    rows = [["", *columns]]

    def row(label: str, values: list[float | None], digits: int = 2, after: str = "") -> None:
        if any(value is not None for value in values):
            rows.append([label, *("-" if value is None else f"{value:.{digits}f}" for value in values), after])

    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"):
        ends = report["interval"].get(name)
        row(
            name,
            [column[name] for column in columns.values()],
            after=f"  ({ends[0]:.1f} to {ends[1]:.1f})" if ends else "",
        )
    for name in ("BLEU-4", "ROUGE-L", "CIDEr-D"):
        row(f"{name}, on words", [column["words"] and column["words"][name] for column in columns.values()])
    for name in ("distinct-1", "distinct-2", "length"):
        row(name, [column[name] for column in columns.values()])
    for name in ("match_score", "cosine"):
        row(name.replace("_", " "), [column[name] for column in columns.values()], digits=4)
    for name in report.get("things", {}):
        label = "things" if name == "things" else f"things: {name.replace('_', ' ')}"
        row(label, [column["things"][name] for column in columns.values()], digits=0 if name == "things" else 2)
    lines += aligned(rows, (28, *[12] * len(columns)))
    if report["CIDEr-D"] is None:
        lines.append("CIDEr-D needs two images or more: it weighs words by how few images have them")
    return "\n".join(lines)
