"""Line charts as inline SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ccmb.report.markup import escape, format_number

Point = tuple[float, float]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area in pixels from the top left corner, and the ranges of the data that it shows."""

    left: float
    top: float
    width: float
    height: float
    x: Range
    y: Range

    def to_pixels(self, x: float, y: float) -> Point:
        """Pixel coordinates of a point of the data; y grows upwards in the data and downwards in pixels."""
        return (
            self.left + self.width * _share(x, self.x),
            self.top + self.height * (1 - _share(y, self.y)),
        )


def line_chart(points: Sequence[Point], x: Range, label: str, smooth: int = 1) -> str:
    """One small chart: the raw values thin, their moving mean over `smooth` points bold, the last value marked.

    Args:
        points: (step, value) in order of step; values that are not finite are left out.
        x: the range of steps on the axis, so that charts below each other can be compared.
        label: the text for screen readers.
    """
    points = [(step, value) for step, value in points if math.isfinite(value)]
    if not points:
        return ""
    values = [value for _, value in points]
    frame, parts = _axes(values, x, label)
    smoothed = moving_mean(points, smooth)
    if smooth > 1:
        parts.append(f'<polyline class="raw" points="{_path(points, frame)}"/>')
    parts.append(f'<polyline class="line" points="{_path(smoothed, frame)}"/>')
    end_x, end_y = frame.to_pixels(*smoothed[-1])
    parts.append(f'<circle class="end" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/></svg>')
    return "".join(parts)


def overlay_chart(series: Sequence[tuple[str, Sequence[Point]]], x: Range, label: str, smooth: int = 1) -> str:
    """One small chart of several runs: the moving mean of each in its colour, the last value marked.

    Args:
        series: colour and points of each run, see `line_chart`; a run without points is left out.
    """
    finite = [(colour, [point for point in points if math.isfinite(point[1])]) for colour, points in series]
    values = [value for _, points in finite for _, value in points]
    if not values:
        return ""
    frame, parts = _axes(values, x, label)
    for colour, points in finite:
        if points:
            smoothed = moving_mean(points, smooth)
            end_x, end_y = frame.to_pixels(*smoothed[-1])
            parts.append(f'<polyline class="line" style="stroke:{colour}" points="{_path(smoothed, frame)}"/>')
            parts.append(f'<circle style="fill:{colour}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>')
    return "".join([*parts, "</svg>"])


def moving_mean(points: Sequence[Point], width: int) -> list[Point]:
    """The mean of each value and its neighbours, up to `width` // 2 on either side."""
    half = width // 2
    values = [value for _, value in points]
    windows = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [(step, sum(window) / len(window)) for (step, _), window in zip(points, windows, strict=True)]


def ticks(low: float, high: float, maximum: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) that span `low` .. `high` in at most `maximum` intervals."""
    if high <= low:
        low, high = low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5
    raw = (high - low) / maximum
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= maximum:
            break
    return [round(index * step, 12) for index in range(first, last + 1)]


def _axes(values: Sequence[float], x: Range, label: str) -> tuple[Frame, list[str]]:
    """The frame that holds all values, and the beginning of the SVG: opening tag, grid and numbers."""
    marks = ticks(min(values), max(values))
    frame = Frame(left=44, top=10, width=264, height=104, x=x, y=(min(marks[0], *values), max(marks[-1], *values)))
    right, bottom = frame.left + frame.width, frame.top + frame.height
    parts = [f'<svg class="chart" viewBox="0 0 320 136" role="img" aria-label="{escape(label)}">']
    for mark in marks:
        _, y = frame.to_pixels(x[0], mark)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{frame.left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{format_number(mark)}</text>')
    for step, anchor in ((x[0], "start"), ((x[0] + x[1]) / 2, "middle"), (x[1], "end")):
        pixel_x, _ = frame.to_pixels(step, 0)
        parts.append(
            f'<text x="{pixel_x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{format_number(round(step))}</text>'
        )
    return frame, parts


def _share(value: float, span: Range) -> float:
    return (value - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.5


def _path(points: Sequence[Point], frame: Frame) -> str:
    return " ".join("{:.1f},{:.1f}".format(*frame.to_pixels(*point)) for point in points)
