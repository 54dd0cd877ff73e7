"""Tables as lines of text, whose columns never run together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = 2  # blanks between columns, at the least


def aligned(rows: Sequence[Sequence[str]], widths: Sequence[int], left: int = 1) -> list[str]:
    """One line for each row.

    Args:
        rows: cells; if a row has more cells than there are widths, the others follow unaligned.
        widths: the width of each column with its gap; a wider cell widens the whole column.
        left: how many columns are aligned on the left; the others are aligned on the right.
    """
    wide = list(widths)
    for row in rows:
        for column, cell in enumerate(row[: len(wide)]):
            wide[column] = max(wide[column], columns_of(cell) + GAP)
    lines = []
    for row in rows:
        line = ""
        for column, cell in enumerate(row):
            blanks = " " * (wide[column] - columns_of(cell)) if column < len(wide) else ""
            line += cell + blanks if column < left else blanks + cell
        lines.append(line.rstrip())
    return lines


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes: two for each Chinese character."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
