"""Generated images on disk: a grid with one row a text, and files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ccmb.core.files import atomic_write
from ccmb.tasks.generation.predict import GeneratedImages

MARGIN, MINIMUM, PAPER = 4, 128, "white"  # small images are enlarged to this side in whole steps


def save_grid(generated: Sequence[GeneratedImages], path: Path) -> None:
    """Write a PNG file with the candidates of each text in a row, the best first."""
    side = enlarged(generated[0].candidates[0].image).width
    columns = max(len(entry.candidates) for entry in generated)
    cell = side + MARGIN
    grid = Image.new("RGB", (columns * cell + MARGIN, len(generated) * cell + MARGIN), PAPER)
    for row, entry in enumerate(generated):
        for column, candidate in enumerate(entry.candidates):
            grid.paste(enlarged(candidate.image), (MARGIN + column * cell, MARGIN + row * cell))
    with atomic_write(path, "wb") as file:
        grid.save(file, "PNG")


def enlarged(image: Image.Image) -> Image.Image:
    """A square image as it is shown: small ones with every pixel a larger square."""
    side = image.width * max(1, -(-MINIMUM // image.width))
    return image.resize((side, side), Image.Resampling.NEAREST)


def save_images(generated: Sequence[GeneratedImages], folder: Path) -> None:
    """Write every candidate as `TEXT-PLACE.png`, texts and places counted from 1, the best first."""
    for row, entry in enumerate(generated, start=1):
        for rank, candidate in enumerate(entry.candidates, start=1):
            with atomic_write(folder / f"{row:03d}-{rank}.png", "wb") as file:
                candidate.image.save(file, "PNG")
