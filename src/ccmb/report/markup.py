"""Small pieces of HTML: escaped texts, labels in two languages, figures, pictures within the page."""

from __future__ import annotations

import base64
import difflib
import html
import io
from collections.abc import Sequence

from PIL import Image


def escape(text: object) -> str:
    """Text as it may stand in an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def both(chinese: str, english: str) -> str:
    """A label in both languages (markup allowed); the page shows one of them or both."""
    return f'<span class="zh" lang="zh-CN">{chinese}</span> <span class="en" lang="en">{english}</span>'


def said(text: str) -> str:
    """A Chinese text of the data: shown in whatever language the page is read."""
    return f'<span class="said" lang="zh-CN">{escape(text)}</span>'


def said_apart(text: str, other: str) -> str:
    """A Chinese text with the characters marked in which it differs from another."""
    matcher = difflib.SequenceMatcher(None, other, text, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        words = escape(text[start:end])
        parts.append(words if kind == "equal" or not words else f"<mark>{words}</mark>")
    return f'<span class="said" lang="zh-CN">{"".join(parts)}</span>'


def number(value: float) -> str:
    """At most four significant digits, thousands set apart: 1,000, 0.065, 12.5."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A figure in percent with one digit, or a dash where there is none."""
    return "–" if value is None else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign, as typeset."""
    return f"{value:+.1f}".replace("-", "−")


def duration(seconds: float) -> tuple[str, str]:
    """A time in Chinese and in English."""
    if seconds < 60:
        return f"{seconds:.1f} 秒", f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} 分 {rest} 秒", f"{minutes} min {rest} s"


def data_uri(picture: Image.Image, longest: int = 160) -> str:
    """A picture as a JPEG within the page, at most `longest` pixels a side."""
    small = picture.convert("RGB")
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    # Full colour resolution: drawn things have hard edges between strong colours.
    small.save(buffer, "JPEG", quality=85, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of ready markup; the first cell of each row is its header, and an empty `head` is left out."""
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
