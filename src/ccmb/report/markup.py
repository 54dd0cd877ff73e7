"""Small pieces of HTML: escaped texts, labels in two languages, metrics, embedded images."""

from __future__ import annotations

import base64
import difflib
import html
import io
from collections.abc import Sequence

from PIL import Image


def escape(text: object) -> str:
    """The text, escaped for an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def both(chinese: str, english: str) -> str:
    """A label in both languages (markup allowed); the page shows one of them or both."""
    return f'<span class="zh" lang="zh-CN">{chinese}</span> <span class="en" lang="en">{english}</span>'


def chinese_text(text: str) -> str:
    """A Chinese text of the data, which is shown in both languages of the page."""
    return f'<span class="said" lang="zh-CN">{escape(text)}</span>'


def differing_chinese_text(text: str, other: str) -> str:
    """A Chinese text in which the characters that differ from another text are marked."""
    matcher = difflib.SequenceMatcher(None, other, text, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        words = escape(text[start:end])
        parts.append(words if kind == "equal" or not words else f"<mark>{words}</mark>")
    return f'<span class="said" lang="zh-CN">{"".join(parts)}</span>'


def format_number(value: float) -> str:
    """The number with at most four significant digits and commas: 1,000, 0.065, 12.5."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A percentage with one decimal; a dash for None."""
    return "–" if value is None else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign, as typeset."""
    return f"{value:+.1f}".replace("-", "−")


def duration(seconds: float) -> tuple[str, str]:
    """A time in Chinese and in English."""
    if seconds < 60:
        return f"{seconds:.1f} 秒", f"{seconds:.1f} s"
    minutes, remaining = divmod(round(seconds), 60)
    return f"{minutes} 分 {remaining} 秒", f"{minutes} min {remaining} s"


def data_uri(image: Image.Image, longest: int = 160) -> str:
    """An image as a JPEG data URI, with at most `longest` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    # Full colour resolution: synthetic scenes have hard edges between strong colours.
    small.save(buffer, "JPEG", quality=85, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of HTML cells. The first cell of each row is its header; an empty `head` is left out."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for first, *others in rows:
        body += f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
    whole = f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>" if any(head) else f"<tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{whole}</table></div>'


def section(chinese: str, english: str, body: str) -> str:
    """A part of the page under its heading."""
    return f"<section><h2>{both(chinese, english)}</h2>{body}</section>"


def paragraph(chinese: str, english: str, kind: str = "") -> str:
    """The same paragraph in both languages (markup allowed)."""
    opening = f'<p class="{kind}"' if kind else "<p"
    return f"{opening}>{both(chinese, english)}</p>"
