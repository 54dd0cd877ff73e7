"""A page in two languages as one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccmb.report.markup import escape


def document(title: str, sections: Sequence[str]) -> str:
    """The whole page: its sections, and a switch between the languages."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<input type="radio" name="language" id="zh"><input type="radio" name="language" id="en">
<input type="radio" name="language" id="both" checked>
<nav><b>CCMB</b><span>
<label for="zh">中文</label><label for="en">English</label><label for="both">中 + En</label>
</span></nav>
<script>document.getElementById(/^zh/.test(navigator.language) ? "zh" : "en").checked = true;</script>
<main>
{chr(10).join(sections)}
</main>
</body>
</html>
"""
