"""Dot charts with whiskers as inline SVG: a metric of several variants, or their differences from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ccmb.report.charts import ticks
from ccmb.report.markup import escape, format_number

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 640, 60, 16, 8, 26
LETTER = 6.5  # pixels of width of a Latin letter of a name; a Chinese character takes two
LANE = 17  # pixels of height of one dot with its whiskers


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with the ends of its interval and the single values that it is the mean of.

    Attributes:
        kind: class of its colour in the style sheet: first, second, good, bad or open.
        title: what a pointer that rests on it is told.
    """

    kind: str
    mean: float
    low: float
    high: float
    points: Sequence[float]
    title: str


def dot_chart(rows: Sequence[tuple[str, Sequence[Dot]]], label: str, zero: bool = False) -> str:
    """One row for each variant, its dots below each other: the mean large, its interval a line, single values small
    and below the line.

    Args:
        rows: the name of each variant with its dots; one without any says only its name.
        label: the text for screen readers.
        zero: draw a line at zero, and let the axis contain it.
    """
    values = [value for _, dots in rows for dot in dots for value in (dot.low, dot.high, *dot.points)]
    marks = ticks(min([*values, *([0.0] if zero else [])]), max([*values, *([0.0] if zero else [])]), 8)
    heights = [LANE * max(1, len(dots)) + 10 for _, dots in rows]
    bottom = TOP + sum(heights)
    longest = max(sum(1 + (character > "\u2e7f") for character in name) for name, _ in rows)
    left = min(max(LEFT, 20 + LETTER * longest), WIDTH / 2)
    parts = [
        f'<svg class="chart dots" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="img" aria-label="{escape(label)}">'
    ]

    def across(value: float) -> float:
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return left + (WIDTH - left - RIGHT) * share

    for mark in marks:
        kind, x = "zero" if zero and mark == 0 else "grid", across(mark)
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{format_number(mark)}</text>')
    top = TOP
    for (name, dots), height in zip(rows, heights, strict=True):
        middle = top + height / 2
        parts.append(f'<text x="{left - 10:g}" y="{middle + 3.5:.1f}" text-anchor="end">{escape(name)}</text>')
        for index, dot in enumerate(dots):
            y = middle + LANE * (index - (len(dots) - 1) / 2)
            whisker = f'x1="{across(dot.low):.1f}" x2="{across(dot.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            small = "".join(
                f'<circle class="one" cx="{across(one):.1f}" cy="{y + 5:.1f}" r="2.2"/>' for one in dot.points
            )
            parts.append(
                f'<g class="{dot.kind}"><title>{escape(dot.title)}</title><line {whisker}/>{small}'
                f'<circle class="mean" cx="{across(dot.mean):.1f}" cy="{y:.1f}" r="4"/></g>'
            )
        top += height
    return "".join([*parts, "</svg>"])
