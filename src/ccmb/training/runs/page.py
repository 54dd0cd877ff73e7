"""The curves of one or several runs, as a page that needs nothing else or as an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ccmb.core.errors import UsageError
from ccmb.core.files import atomic_write
from ccmb.report.charts import Frame, moving_mean, overlay_chart, ticks
from ccmb.report.document import document
from ccmb.report.markup import both, escape, format_number, paragraph, section, table
from ccmb.training.runs.run_folder import Run
from ccmb.training.runs.table import LABELS, metrics_of, summary

# Distinct on light and on dark ground, and for people who see red and green alike.
COLOURS = ("#c5432c", "#3f7fbf", "#2f9e77", "#b8860b", "#8e5bb5", "#d0729b", "#5f7a8a", "#7a8b2f")
PANEL, COLUMNS, MARGIN, LINE = (480, 220), 3, 16, 22
PAPER, INK, GRID = "white", "#33363d", "#e3e0d8"


def check_out(path: Path) -> None:
    """Check that curves can be drawn into a file of this name.

    Raises:
        UsageError: its name ends in neither .html nor .png.
    """
    if path.suffix.lower() not in (".html", ".png"):
        raise UsageError(f"--out {path}: curves are drawn into a file that ends in .html or .png")


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    """Draw every metric of the logs into a file, by its ending a page or an image.

    Raises:
        UsageError: see `check_out`.
        CcmbError: it cannot be written.
    """
    check_out(path)
    if path.suffix.lower() == ".html":
        with atomic_write(path) as page:
            page.write(curves_page(runs))
    else:
        with atomic_write(path, "wb") as image:
            curves_image(runs).save(image, "PNG")


def curves_page(runs: Sequence[Run]) -> str:
    """One chart for each metric with all runs in it, after a table of the runs."""
    names = ", ".join(Path(run.name).name for run in runs)
    header = f"<header><h1>{both('训练曲线', 'Training curves')}</h1></header>"
    return document(f"CCMB: {names}", [header, runs_section(runs), curves_section(runs)])


def curves_section(runs: Sequence[Run]) -> str:
    """One chart for each metric with all runs in it."""
    x, smooth = _span(runs), _smoothing(runs)
    panels = []
    for name in metrics_of(runs):
        chinese, english = LABELS.get(name, (name, name))
        series = [(_colour(index), run.points(name)) for index, run in enumerate(runs)]
        body = overlay_chart(series, x, english, smooth)
        if body:
            title = both(escape(chinese), escape(english)) if chinese != english else escape(english)
            panels.append(f"<figure><figcaption><b>{title}</b></figcaption>{body}</figure>")
    note = paragraph(
        f"横轴为训练步数。曲线为 {smooth} 个记录点的滑动平均。",
        f"Across: training steps. Curves are moving means over {smooth} logged values.",
        "note",
    )
    body = f'<div class="panels">{"".join(panels)}</div>{note}' if panels else paragraph("还没有记录。", "Nothing yet.")
    return section("曲线", "Curves", body)


def curves_image(runs: Sequence[Run]) -> Image.Image:
    """The same curves as an image, in English; the built-in font knows no Chinese."""
    names = [name for name in metrics_of(runs) if any(math.isfinite(v) for run in runs for _, v in run.points(name))]
    columns = max(1, min(COLUMNS, len(names)))
    top = MARGIN + LINE * len(runs)
    size = columns * (PANEL[0] + MARGIN) + MARGIN, top + math.ceil(len(names) / columns) * (PANEL[1] + MARGIN) + MARGIN
    image = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for index, run in enumerate(runs):
        y = MARGIN + index * LINE
        draw.rectangle((MARGIN, y + 3, MARGIN + 12, y + 15), _colour(index))
        draw.text((MARGIN + 20, y), run.name, INK, font)
    for index, name in enumerate(names):
        left = MARGIN + index % columns * (PANEL[0] + MARGIN)
        _panel(draw, runs, name, (left, top + MARGIN + index // columns * (PANEL[1] + MARGIN)))
    return image


def _panel(draw: ImageDraw.ImageDraw, runs: Sequence[Run], name: str, corner: tuple[int, int]) -> None:
    title, small = ImageFont.load_default(14), ImageFont.load_default(11)
    series = [[point for point in run.points(name) if math.isfinite(point[1])] for run in runs]
    values, x = [value for points in series for _, value in points], _span(runs)
    marks = ticks(min(values), max(values))
    span = min(marks[0], *values), max(marks[-1], *values)
    frame = Frame(left=corner[0] + 62, top=corner[1] + 26, width=PANEL[0] - 74, height=PANEL[1] - 50, x=x, y=span)
    draw.text(corner, LABELS.get(name, (name, name))[1].replace(" τ", ""), INK, title)
    for mark in marks:
        _, y = frame.to_pixels(x[0], mark)
        draw.line((frame.left, y, frame.left + frame.width, y), GRID)
        draw.text((frame.left - 6, y), format_number(mark), INK, small, anchor="rm")
    for step, anchor in ((x[0], "lt"), ((x[0] + x[1]) / 2, "mt"), (x[1], "rt")):
        draw.text(
            (frame.to_pixels(step, 0)[0], frame.top + frame.height + 6),
            format_number(round(step)),
            INK,
            small,
            anchor=anchor,
        )
    for index, points in enumerate(series):
        path = [frame.to_pixels(*point) for point in moving_mean(points, _smoothing(runs))]
        if len(path) > 1:
            draw.line(path, _colour(index), 2, joint="curve")
        if path:
            x_end, y_end = path[-1]
            draw.ellipse((x_end - 3, y_end - 3, x_end + 3, y_end + 3), _colour(index))


def runs_section(runs: Sequence[Run]) -> str:
    """A table of the runs, each with the colour of its curves."""
    rows = []
    for index, run in enumerate(runs):
        metrics = summary(run)
        name = f'<i class="swatch" style="background:{_colour(index)}"></i>{escape(run.name)}'
        step = f"{metrics['step']:,}" + (f" / {metrics['steps']:,}" if metrics["steps"] else "")
        cells = [metrics["losses"].get("loss"), metrics["samples_per_second"], metrics["hours"]]
        rows.append((name, step, *("–" if value is None else format_number(value) for value in cells)))
    head = (
        both("运行", "Run"), both("步", "Step"), both("损失", "Loss"), both("每秒样本数", "Samples/s"),
        both("小时", "Hours"),
    )  # fmt: skip
    return section("运行", "Runs", table(head, rows, "figures"))


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _span(runs: Sequence[Run]) -> tuple[float, float]:
    return 0, max(1, *(run.steps or 0 for run in runs), *(run.step for run in runs))


def _smoothing(runs: Sequence[Run]) -> int:
    return max(1, max(len(run.lines) for run in runs) // 32)
