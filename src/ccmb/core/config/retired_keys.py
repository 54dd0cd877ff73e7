"""Keys of recipes that have another name now: what has the old one still loads, and the new one is what all else sees.

Each part of a recipe lists its own in `RETIRED`. A recipe is renamed as a whole before it is checked, so that messages,
overrides of shipped recipes and comparisons with what older versions saved know one name of each key.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from ccmb.core.config.yaml_values import parse_yaml
from ccmb.core.errors import UsageError


class Retired(NamedTuple):
    """What a retired key is today.

    Attributes:
        name: of the key; its own where values alone are written otherwise now.
        values: those that are, by what they were; others stay as they are.
    """

    name: str
    values: Mapping[Any, Any] = {}

    def value(self, before: Any) -> Any:
        """The value of today."""
        return self.values.get(before, before) if isinstance(before, Hashable) else before


class Renamed(NamedTuple):
    """A key in full, as it was given and as it is called now."""

    old: str
    new: str


def retired_keys(kind: type[BaseModel]) -> dict[str, Retired]:
    """The retired keys of a part, its base classes' among them."""
    table: dict[str, Retired] = {}
    for base in reversed(kind.__mro__):
        for old, new in vars(base).get("RETIRED", {}).items():
            table[old] = Retired(new) if isinstance(new, str) else new
    return table


def renamed_here(
    kind: type[BaseModel], values: Mapping[str, Any], prefix: str = ""
) -> tuple[dict[str, Any], list[Renamed]]:
    """A part's own keys by their names of today, and which had others.

    Args:
        prefix: of the part's keys, for the list and for messages.

    Raises:
        UsageError: a key is given by both names.
    """
    retired = retired_keys(kind)
    result: dict[str, Any] = {}
    renamed: list[Renamed] = []
    for key, value in values.items():
        today = retired.get(key, Retired(key))
        if today.name != key:
            renamed.append(Renamed(f"{prefix}{key}", f"{prefix}{today.name}"))
            if today.name in values:
                raise UsageError(_given_twice(renamed[-1]))
        result[today.name] = today.value(value)
    return result, renamed


def renamed_values(kind: type[BaseModel], values: Any, prefix: str = "") -> tuple[Any, list[Renamed]]:
    """The same of a whole recipe or part: the values, with every key in them by its name of today."""
    if not isinstance(values, dict):
        return values, []
    result, renamed = renamed_here(kind, values, prefix)
    for key, value in result.items():
        if (inner := part_of(kind, key)) is not None:
            result[key], below = renamed_values(inner, value, f"{prefix}{key}.")
            renamed += below
    return result, renamed


def renamed_overrides(kind: type[BaseModel], overrides: Sequence[str]) -> tuple[list[str], list[Renamed]]:
    """The same of overrides `key=value`; one without a key or a value is left as it is.

    Raises:
        UsageError: a key is given by both names, by one override or by two.
    """
    given = {override.partition("=")[0] for override in overrides}
    result: list[str] = []
    renamed: list[Renamed] = []
    for override in overrides:
        try:
            text, own = _renamed_override(kind, override)
            if twice := next((one for one in own if one.new in given), None):
                raise UsageError(_given_twice(twice))
        except UsageError as error:
            raise UsageError(f"override '{override}': {error}") from None
        result.append(text)
        renamed += own
    return result, renamed


def renamed_recipe(kind: type[BaseModel], record: dict[str, Any]) -> dict[str, Any]:
    """What a work has on record, with the recipe in it, under "recipe", by the names of today."""
    return record | {"recipe": renamed_values(kind, record.get("recipe"))[0]}


def say_renamed(renamed: Iterable[Renamed], where: str) -> None:
    """Say on stderr, once, which keys have another name now."""
    pairs = ", ".join(f"{old} is now {new}" for old, new in dict.fromkeys(renamed))
    if pairs and os.environ.get("RANK", "0") == "0":
        print(f"ccmb: {where}: {pairs}", file=sys.stderr, flush=True)


def part_of(kind: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The kind of part that a key holds, or may hold; None where it holds a value."""
    field = kind.model_fields.get(key)
    return part_in(field.annotation) if field else None


def part_in(annotation: Any) -> type[BaseModel] | None:
    """The same of a field's type."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return next((part for inner in get_args(annotation) if (part := part_in(inner)) is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _renamed_override(kind: type[BaseModel], override: str) -> tuple[str, list[Renamed]]:
    key, equals, text = override.partition("=")
    path: list[str] = []
    inner: type[BaseModel] | None = kind
    today = Retired(key)
    for name in key.split("."):
        today = retired_keys(inner).get(name, Retired(name)) if inner else Retired(name)
        inner = part_of(inner, today.name) if inner else None
        path.append(today.name)
    new = ".".join(path)
    renamed = [Renamed(key, new)] if new != key else []
    try:
        given = parse_yaml(text)
    except ValueError:
        return f"{new}{equals}{text}", renamed  # whose reader says what is wrong
    value = today.value(given)
    below: list[Renamed] = []
    if inner is not None:
        value, below = renamed_values(inner, value, f"{new}.")
    if below or value is not given:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{new}{equals}{text}", renamed + below


def _given_twice(key: Renamed) -> str:
    return f"'{key.old}' is an old name of '{key.new}', and both are given; leave '{key.old}' out"
