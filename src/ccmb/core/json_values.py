"""Records as JSON values, where files and replies keep a key that the code has another word for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def json_values(record: Any, **keys: str) -> Any:
    """A dataclass and all within it as JSON values, like `dataclasses.asdict`, with some fields under other keys.

    Args:
        keys: the key of each renamed field by its name, at any depth: `json_values(match, image="picture")`. The order
            of the fields is kept.
    """
    if is_dataclass(record) and not isinstance(record, type):
        return {
            keys.get(field.name, field.name): json_values(getattr(record, field.name), **keys)
            for field in fields(record)
        }
    if isinstance(record, tuple) and hasattr(record, "_asdict"):
        return {keys.get(name, name): json_values(value, **keys) for name, value in record._asdict().items()}
    if isinstance(record, Mapping):
        return {key: json_values(value, **keys) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [json_values(value, **keys) for value in record]
    return record
