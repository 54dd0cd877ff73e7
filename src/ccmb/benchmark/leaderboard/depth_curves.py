"""What each number of ranked candidates gives: a chart for each two-stage row of our own, with its ceiling."""

from __future__ import annotations

from collections.abc import Sequence

from ccmb.benchmark.leaderboard.rows import Row
from ccmb.inference.two_stage import Direction
from ccmb.report.charts import overlay_chart
from ccmb.report.markup import both, escape, paragraph, section

WORDS: dict[Direction, tuple[str, str]] = {
    "text_to_image": ("文搜图", "text to image"),
    "image_to_text": ("图搜文", "image to text"),
}
CEILING, RANKED = "var(--first)", "var(--second)"  # colours


def depth_section(rows: Sequence[Row]) -> str:
    """R@1 after ranking over the number of candidates, below the recall that the candidates have; empty without any."""
    panels = [_panel(row, direction) for row in rows for direction in row.by_depth]
    if not panels:
        return ""
    note = paragraph(
        f'横轴为第二阶段重排的候选数。<b style="color:{RANKED}">重排后的 R@1</b>不可能超过'
        f'<b style="color:{CEILING}">上限</b>，即第一阶段在该候选数上的召回率。',
        f'Across: candidates that the second stage ranks. <b style="color:{RANKED}">R@1 after ranking</b> cannot '
        f'exceed the <b style="color:{CEILING}">ceiling</b>, the first stage\'s recall at so many.',
        "note",
    )
    return section("候选数", "Depth", f'<div class="panels">{"".join(panels)}</div>{note}')


def _panel(row: Row, direction: Direction) -> str:
    points = row.by_depth[direction]
    depths = [point.depth for point in points]
    series = [
        (CEILING, [(point.depth, point.ceiling) for point in points]),
        (RANKED, [(point.depth, point.recalls["R@1"]) for point in points]),
    ]
    chinese, english = WORDS[direction]
    title = ", ".join(filter(None, (row.model, row.set_title, row.variant)))
    label = f"{title}, {english}: R@1 {points[-1].recalls['R@1']} of {points[-1].ceiling} at {depths[-1]} candidates"
    chart = overlay_chart(series, (depths[0], depths[-1]), label)
    return f"<figure><figcaption>{escape(title)} {both(chinese, english)}</figcaption>{chart}</figure>"
