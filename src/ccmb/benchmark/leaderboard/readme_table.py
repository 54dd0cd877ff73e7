"""The short table of the READMEs: the best metrics of each set, published and measured here.

`python -m ccmb.benchmark.leaderboard.readme_table`, in the repository's root, writes it anew from the published rows
and, where there are any, the results in `benchmarks/measured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from ccmb.benchmark.family import BilingualText
from ccmb.benchmark.leaderboard.columns import VIEWS
from ccmb.benchmark.leaderboard.markdown import metric
from ccmb.benchmark.leaderboard.published import published
from ccmb.benchmark.leaderboard.rows import SETS, Row, leaderboard, read_results
from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write

Language = Literal["zh", "en"]
BEGIN, END = "<!-- leaderboard: begin -->", "<!-- leaderboard: end -->"
FILES: dict[str, Language] = {"README.md": "en", "README.zh.md": "zh"}
RESULTS = Path("benchmarks") / "measured"
HEADS = (
    BilingualText("数据集", "set"),
    BilingualText("指标", "figure"),
    BilingualText("已发表的最好结果", "best published"),
    BilingualText("R2D2（已发表）", "R2D2, published"),
    BilingualText("CN-CLIP（已发表）", "CN-CLIP, published"),
    BilingualText("本项目测得", "measured here"),
)
SETTINGS = {"zero-shot": BilingualText("零样本", "zero-shot"), "fine-tuned": BilingualText("微调", "fine-tuned")}
NONE_YET = BilingualText("尚无", "none yet")
SEPARATOR = BilingualText("，", ", ")


def readme_table(rows: Sequence[Row], language: Language) -> str:
    """The best rows of each known set and setting that have a main metric.

    What was measured here stands in the line of published rows only where it was set against them, and so is of the
    same images; else in a line of its own. Where nothing was, there is no column for it.
    """
    lines: list[list[str]] = []
    known = [row for row in rows if row.set in SETS and row.setting in SETTINGS and row.main is not None]
    for set_key in dict.fromkeys((row.family, row.set, row.setting) for row in known):
        set_rows = [row for row in known if (row.family, row.set, row.setting) == set_key]
        published_rows, own_rows = (
            [row for row in set_rows if row.origin == origin] for origin in ("published", "ours")
        )
        together = any(row.mark for row in published_rows)
        if published_rows:
            lines.append(_set_line(published_rows, own_rows if together else [], language))
        if own_rows and not together:
            lines.append(_set_line([], own_rows, language))
    measured = any(line[-1] != getattr(NONE_YET, language) for line in lines)
    columns = len(HEADS) if measured else len(HEADS) - 1
    heads = [getattr(words, language) for words in HEADS]
    return "\n".join(_line(line[:columns]) for line in (heads, ["---"] * len(HEADS), *lines))


def _set_line(published_rows: Sequence[Row], own_rows: Sequence[Row], language: Language) -> list[str]:
    first = (*published_rows, *own_rows)[0]
    r2d2 = [row for row in published_rows if row.model.startswith("R2D2")]
    clip = [row for row in published_rows if row.model.startswith("CN-CLIP")]
    best = [_best(rows) for rows in (published_rows, r2d2, clip)]
    own = f"**{_best(own_rows)}**, {max(own_rows, key=_main).variant}" if own_rows else getattr(NONE_YET, language)
    title = getattr(SEPARATOR, language).join([first.set_title, getattr(SETTINGS[first.setting], language)])
    return [title, getattr(VIEWS[first.family].main_words, language), *best, own]


def _best(rows: Sequence[Row]) -> str:
    """The highest main metric and its model; with the interval if measured here, with a dagger if it is unsure."""
    if not rows:
        return "–"
    best = max(rows, key=_main)
    bounds = "" if best.interval is None else f" [{best.interval[0]:.1f}, {best.interval[1]:.1f}]"
    unsure = any(published().notes[note].mark in ("conflict", "unverified") for note in best.notes)
    seen = f" (⚠ {best.seen})" if best.seen else ""
    return f"{metric(best.main)}{'†' if unsure else ''}{bounds} {best.model}{seen}"


def _main(row: Row) -> float:
    return row.main or 0.0


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def with_table(text: str, table: str, where: str) -> str:
    """The text of a README with the table between its marks.

    Raises:
        CcmbError: the marks are not there, or not in order.
    """
    head, begin, after_begin = text.partition(BEGIN)
    _, end, tail = after_begin.partition(END)
    if not begin or not end:
        raise CcmbError(f"{where}: needs the lines {BEGIN} and {END}, between which the table is written")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def written_anew(root: Path) -> dict[Path, str]:
    """The READMEs of a checkout as they should be.

    Raises:
        CcmbError: one lacks its marks, or a result is faulty.
    """
    rows = leaderboard(read_results([root / RESULTS]) if (root / RESULTS).is_dir() else [])
    return {
        root / name: with_table((root / name).read_text(encoding="utf-8"), readme_table(rows, language), name)
        for name, language in FILES.items()
    }


if __name__ == "__main__":
    for path, text in written_anew(Path()).items():
        with atomic_write(path) as file:
            file.write(text)
