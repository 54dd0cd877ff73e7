"""A small web of drawn images with links to them, and corpora built of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.corpus.inputs.tables import Inputs
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import random_scene
from ccmb.scenes.texts import describe

RECIPE: dict[str, Any] = {
    "download": {
        "network": {
            "allow_private": ["127.0.0.1"], "connections_per_host": 32, "host_delay": 0.0, "retries": 1,
            "backoff": 0.05, "read_timeout": 1.0, "total_timeout": 10.0, "max_bytes": 2**20,
        },
        "rows_per_part": 16,
        "resize": {"image_size": 64},
    },
    "image_dedup": {"max_hamming_distance": 6, "max_color_difference": 12},
    "shards": {"samples_per_shard": 10},
}  # fmt: skip


def recipe(**changes: Any) -> ZeroRecipe:
    return ZeroRecipe.model_validate(RECIPE | changes)


def draw_web(folder: Path, count: int, size: int = 128) -> Path:
    """Images, the last two of which are a copy of the first and a smaller copy of the second; captions beside."""
    (folder / "pictures").mkdir(parents=True)
    rng, captions = random.Random(0), []
    for number in range(count - 2):
        scene = random_scene(rng)
        image = render_scene(scene, size, rng)
        image.save(folder / "pictures" / f"{number}.jpg", quality=92)
        captions.append(describe(scene, rng).captions[:2])
        if number == 1:
            image.resize((size * 7 // 8,) * 2).save(folder / "pictures" / f"{count - 1}.jpg", quality=80)
    first = (folder / "pictures" / "0.jpg").read_bytes()
    (folder / "pictures" / f"{count - 2}.jpg").write_bytes(first)
    captions += [["一幅画着各种东西的彩色插图"], ["另外一幅在网上转载的儿童画"]]
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def links_of(web: Path, base: str) -> Inputs:
    """A list of links to all images of the web, with their captions."""
    path = web / "links.jsonl"
    captions = json.loads((web / "captions.json").read_text())
    lines = [
        {"url": f"{base}pictures/{number}.jpg", "caption": text}
        for number, texts in enumerate(captions) for text in texts
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return Inputs(links=[str(path)])


def files_of(out: Path) -> dict[str, bytes]:
    """All files of a corpus but for what is kept between steps."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*")) if path.is_file() and "work" not in path.parts and path.name != ".lock"
    }  # fmt: skip
