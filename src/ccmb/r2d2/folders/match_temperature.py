"""The match temperature that is stored beside a model's weights."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.files import read_json, write_json


def store_match_temperature(folder: Path, temperature: float) -> None:
    """Write the temperature into a model folder's `config.json`; its other values stay."""
    write_json(folder / "config.json", read_json(folder / "config.json") | {"match_temperature": temperature})


def stored_match_temperature(folder: Path) -> float:
    """The temperature in a model folder's `config.json`; 1 where there is none."""
    path = folder / "config.json"
    return float(read_json(path).get("match_temperature", 1.0)) if path.is_file() else 1.0
