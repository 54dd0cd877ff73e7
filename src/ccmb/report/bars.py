"""Bar charts as inline SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence

from ccmb.report.markup import escape, format_number

WIDTH, HEIGHT, BASE, TOP = 320, 136, 112, 18


def bar_chart(labels: Sequence[str], counts: Sequence[int], label: str) -> str:
    """Upright bars. The highest bar shows its count. If there are many bars, only every second label is shown.

    Args:
        label: the text for screen readers.
    """
    maximum, slot = max([*counts, 1]), WIDTH / max(1, len(counts))
    label_step = 1 if len(labels) <= 11 else 2
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/>')
    for index, (name, count) in enumerate(zip(labels, counts, strict=True)):
        left, height = index * slot, (BASE - TOP) * count / maximum
        title = f"<title>{escape(name)}: {count:,}</title>"
        box = f'x="{left + 1:.1f}" y="{BASE - height:.1f}" width="{slot - 2:.1f}" height="{height:.1f}"'
        parts.append(f"<rect {box}>{title}</rect>")
        middle = left + slot / 2
        if count == maximum:
            parts.append(f'<text x="{middle:.1f}" y="{TOP - 6}" text-anchor="middle">{format_number(count)}</text>')
        if index % label_step == 0:
            parts.append(f'<text x="{middle:.1f}" y="{BASE + 14}" text-anchor="middle">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])
