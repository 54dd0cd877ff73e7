"""A folder of drawn images, and downloads of it from a simulated web that need not wait long for anything."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ccmb.corpus.download.index import read_index
from ccmb.corpus.download.parts import Link
from ccmb.corpus.download.run import DownloadOptions
from ccmb.fetch.fetcher import HttpOptions
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import random_scene

HOST = "127.0.0.1"


def draw_folder(folder: Path, count: int, size: int = 128) -> Path:
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for number in range(count):
        render_scene(random_scene(rng), size, rng).save(folder / f"{number}.jpg")
    return folder


def links(base: str, count: int) -> list[Link]:
    return [Link(f"key {number}", f"{base}{number}.jpg") for number in range(count)]


def network(**changes: Any) -> HttpOptions:
    quick = {
        "allow_private": (HOST,), "connections_per_host": 32, "host_delay": 0.0, "retries": 1, "backoff": 0.05,
        "read_timeout": 0.5, "slow_after": 0.5, "total_timeout": 10.0, "max_bytes": 2**20, "robot_name": "ccmb",
    }  # fmt: skip
    return HttpOptions.model_validate(quick | changes)


def options(rows_per_part: int = 16, form: Any = None, **changes: Any) -> DownloadOptions:
    of_network = {name: changes.pop(name) for name in list(changes) if name in HttpOptions.model_fields}
    values = changes | ({"form": form} if form else {})
    return DownloadOptions(network=network(**of_network), rows_per_part=rows_per_part, **values)


def index(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_index(out).to_pylist()
    return rows


def results(out: Path) -> dict[str, bytes]:
    """All files of a finished download but for those that depend on the clock."""
    kept = (path for path in sorted(out.iterdir()) if not path.name.startswith("times-"))
    return {path.name: path.read_bytes() for path in kept}
