"""A contact sheet: the hits of a search as one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.search.indexing.image_sources import Sources
from ccmb.search.query import Hit

SIDE, MARGIN, CAPTION, MAX_COLUMNS = 192, 8, 40, 5
PAPER, INK, GONE = "white", "#222222", "#dddddd"


def contact_sheet(hits: Sequence[Hit], path: str | Path) -> None:
    """Draw hits into the PNG file `path`: best first in rows of five, each above its rank and scores.

    A missing image becomes a grey square.
    """
    columns = max(1, min(MAX_COLUMNS, len(hits)))
    rows = max(1, math.ceil(len(hits) / columns))
    width, height = SIDE + MARGIN, SIDE + CAPTION + MARGIN
    canvas = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), PAPER)
    draw, sources = ImageDraw.Draw(canvas), Sources()
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for index, hit in enumerate(hits):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        canvas.paste(_thumbnail(sources, hit), (left, top))
        draw.text((left, top + SIDE + 4), f"{index + 1}   {hit.score:.3f}", INK, large)
        draw.text((left, top + SIDE + 22), caption(hit), INK, small)
    with atomic_write(path, "wb") as file:
        canvas.save(file, "PNG")


def caption(hit: Hit) -> str:
    """The cosine and match score of a hit, as text."""
    if hit.missing:
        return f"cosine {hit.cosine:.3f}  image is gone"
    return f"cosine {hit.cosine:.3f}" + (f"  match {hit.match:.3f}" if hit.match is not None else "")


def _thumbnail(sources: Sources, hit: Hit) -> Image.Image:
    try:
        image = sources.load(hit.source, hit.name)
    except CcmbError:
        return Image.new("RGB", (SIDE, SIDE), GONE)
    scale, square = SIDE / max(image.size), Image.new("RGB", (SIDE, SIDE), PAPER)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square.paste(image.resize((width, height)), ((SIDE - width) // 2, (SIDE - height) // 2))
    return square
