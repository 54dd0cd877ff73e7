"""A tiny set of own pairs on disk, for the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.tiny import TEXTS, tiny_images

COUNT = 6


def save_set(folder: Path, seed: int = 0, count: int = COUNT) -> Path:
    """`pairs.jsonl` of so many test images, some with two texts, beside `images`; returns the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for index, image in enumerate(tiny_images(count, seed)):
        image.save(folder / "images" / f"{index}.png")
        texts = [TEXTS[index % len(TEXTS)], *TEXTS[7:][: index % 2]]
        lines.append({"image": f"{index}.png", "texts": texts, "split": "test"})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path
