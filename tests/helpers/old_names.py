"""Recipes as older versions wrote them: with the names that keys had before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ccmb.core.config.retired_keys import part_of, retired_keys


def by_old_names(kind: type[BaseModel], values: Any) -> Any:
    """The values of a recipe or part, with every key and value that has an old form in it."""
    if not isinstance(values, dict):
        return values
    old_of = {retired.name: (old, retired) for old, retired in retired_keys(kind).items()}
    result: dict[str, Any] = {}
    for key, value in values.items():
        if (inner := part_of(kind, key)) is not None:
            value = by_old_names(inner, value)
        if key in old_of:
            key, retired = old_of[key]
            value = next((before for before, now in retired.values.items() if now == value), value)
        result[key] = value
    return result


def rewrite_by_old_names(kind: type[BaseModel], path: Path) -> str:
    """Give a saved recipe its old names, and return what it was."""
    text = path.read_text(encoding="utf-8")
    values = by_old_names(kind, yaml.safe_load(text))
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    return text
