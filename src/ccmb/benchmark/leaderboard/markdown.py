"""The leaderboard as Markdown, for people, and as CSV, for machines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from ccmb.benchmark.leaderboard.columns import NOTHING, VIEWS
from ccmb.benchmark.leaderboard.published import published
from ccmb.benchmark.leaderboard.rows import Row

MARKS = {"": "", "best": "★", "worse": "▼", "better": "▲", "even": "≈"}
MARKS_SAID_EN = (
    "Marks stand for the main metric (mean recall, AUC, top-1, CIDEr-D) against the best of ours (★) on the same data "
    "in the same setting. Of rows measured here: ▼ worse and ▲ better, where the 95 % interval of the difference, by a "
    "paired bootstrap over images, leaves out zero, ≈ not to be told apart. Of published rows: above (▲), below (▼) "
    "or within (≈) the 95 % interval of ours; such rows may differ from ours in more than the model. Intervals are "
    "not corrected for many comparisons. ⚠ saw N test images: by the photographs' numbers in file names, the model or "
    "one that it was started from was trained on so many of the images that it is measured on."
)
MARKS_SAID_ZH = (
    "标记针对主要指标（平均召回、AUC、top-1、CIDEr-D），与同一数据、同一设定下我们最好的一行（★）相比。本次测得的行：对图片做成对自助抽样，"
    "差值的 95% 区间不含零时记 ▼（更差）或 ▲（更好），否则记 ≈（分不出高下）。已发表的行：高于（▲）、低于（▼）"
    "或落在（≈）我们的 95% 区间之内；这些行与我们的差别可能不只在模型。区间未对多重比较作修正。"
    "⚠ saw N test images（见过 N 张测试图）：按文件名中的照片编号，该模型或它的起点模型训练时用过其中 N 张测试图片。"
)
# Families may share one, such as the match score.
METRICS = tuple(dict.fromkeys(key for view in VIEWS.values() for key in (*view.columns, view.main)))
COLUMNS = (
    "origin", "family", "set", "variant", "setting", "model", "kind", "stage", *METRICS,
    "low", "high", "mark", "difference", "difference_low", "difference_high", "seen", "sources", "notes",
)  # fmt: skip


def metric(value: float | None) -> str:
    """A metric in percent with one digit; a dash where there is none."""
    return "-" if value is None else f"{value:.1f}"


def note_numbers(rows: Iterable[Row]) -> dict[str, int]:
    """The numbers of the notes on these rows, from 1, in the order of `published.json`."""
    used = {note for row in rows for note in row.notes}
    return {note: number for number, note in enumerate((key for key in published().notes if key in used), start=1)}


def markdown(rows: Sequence[Row]) -> str:
    """A table for each set and setting of each family; rows measured here are bold and have an interval."""
    numbers = note_numbers(rows)
    parts = [
        "# Leaderboard\n\n**Bold** rows were measured here with `ccmb benchmark`; the others are as published. All "
        "metrics are in percent."
    ]
    for family, view in VIEWS.items():
        of_family = [row for row in rows if row.family == family]
        parts.append(f"## {view.title.en}" + ("" if of_family else f"\n\n{NOTHING.en}"))
        heads = [*(words.en for words in view.columns.values()), view.main_words.en]
        for (title, setting), of_both in groupby(of_family, key=lambda row: (row.set_title, row.setting)):
            lines = [_line(["model", "variant", "stage", *heads, "95 %", "", "source"])]
            lines += [_line(["---"] * 3 + ["---:"] * (len(heads) + 1) + ["---"] * 2)]
            lines += [_line(_cells(row, numbers)) for row in of_both]
            parts.append(f"### {_plain(title)}, {setting}\n\n" + "\n".join(lines))
    parts.append(MARKS_SAID_EN)
    notes = published().notes
    parts.append("\n".join(f"{number}. [{notes[key].mark}] {notes[key].en}" for key, number in numbers.items()))
    return "\n\n".join(parts).rstrip() + "\n"


def _cells(row: Row, numbers: Mapping[str, int]) -> list[str]:
    model = f"**{_plain(row.model)}**" if row.origin == "ours" else _plain(row.model)
    model += "".join(f"<sup>{number}</sup>" for number in sorted(numbers[note] for note in row.notes))
    model += f" ⚠ {row.seen}" if row.seen else ""
    view = VIEWS[row.family]
    metrics = [metric(row.metrics.get(key)) for key in (*view.columns, view.main)]
    bounds = "" if row.interval is None else f"{row.interval[0]:.1f} to {row.interval[1]:.1f}"
    source = _plain("; ".join(row.sources))
    return [model, _plain(row.variant), row.stage, *metrics, bounds, MARKS[row.mark], source]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """A text with the characters escaped that have a meaning in a Markdown table."""
    clean = " ".join(text.split())
    for character in "\\|*_`<>[]":
        clean = clean.replace(character, f"\\{character}")
    return clean


def as_csv(rows: Sequence[Row]) -> str:
    """Every metric in a column of its own; empty where there is none."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_record, rows))
    return buffer.getvalue()


def _record(row: Row) -> dict[str, object]:
    low, high = row.interval or ("", "")
    gap = row.difference
    return {
        **{
            name: getattr(row, name)
            for name in ("origin", "family", "set", "variant", "setting", "model", "kind", "stage", "mark", "seen")
        },
        **{key: row.metrics.get(key, "") for key in METRICS},
        "low": low,
        "high": high,
        "difference": "" if gap is None else gap.mean,
        "difference_low": "" if gap is None else gap.low,
        "difference_high": "" if gap is None else gap.high,
        "sources": "; ".join(row.sources),
        "notes": " ".join(published().notes[note].en for note in row.notes),
    }
