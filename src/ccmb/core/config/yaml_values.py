"""Values of recipes and overrides: YAML 1.1, but with the numbers of YAML 1.2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from ccmb.core.errors import UsageError, one_line


class _Loader(yaml.SafeLoader):
    """YAML 1.1 that also reads 5e-4 and 5e2 as numbers, as YAML 1.2 does, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set[str]()
        for key, _ in node.value:  # before merge keys (<<), which may be overridden, are resolved
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in given:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                given.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def override_key(values: dict[str, Any], override: str) -> str:
    """Set one key by an override `key=value`; of a list of parts with names, a part of the key is a name or a number.

    Returns:
        The override, with names in the place of numbers.

    Raises:
        UsageError: the override is malformed, its value is not YAML, or a list has no such item.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"override '{override}': write key=value, such as training.steps=200")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"override '{override}': the value is not valid YAML ({error})") from None
    *parents, last = key.split(".")
    names, holder = [], values
    for depth, parent in enumerate(parents):
        part: Any = holder.get(parent)
        if isinstance(holder, _Items):
            parent = holder.name(parent, override, ".".join(parents[:depth]))
            part = holder[parent]
        elif isinstance(part, list):
            part = _Items(part)
        elif not isinstance(part, dict):
            part = holder[parent] = {}
        names.append(parent)
        holder = part
    if isinstance(holder, _Items):
        raise UsageError(f"override '{override}': name a key of the item too, such as {key}.training.steps=200")
    holder[last] = value
    return f"{'.'.join([*names, last])}={text}"


class _Items(dict[str, Any]):
    """The items of a list that are mappings, by their names."""

    def __init__(self, items: list[Any]) -> None:
        self.names = [item_name(item, index) for index, item in enumerate(items)]
        super().__init__(zip(self.names, items, strict=True))

    def name(self, given: str, override: str, key: str) -> str:
        """The name of the item that is given by its name or its number."""
        if given.isdecimal() and int(given) < len(self.names):
            given = self.names[int(given)]
        if not isinstance(self.get(given), dict):
            raise UsageError(f"override '{override}': {key} has no '{given}'; it has {', '.join(self.names) or 'none'}")
        return given


def item_name(item: Any, index: int) -> str:
    """The part of a key that stands for an item of a list: its name if it has one, else its number from 0."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) and name else str(index)


def key_of(values: Any, location: Iterable[int | str]) -> str:
    """The key of a place in a recipe's values, with the names of items in the place of their numbers."""
    names = []
    for part in location:
        inner: Any = None
        name = str(part)
        if isinstance(part, int) and isinstance(values, list) and part < len(values):
            inner, name = values[part], item_name(values[part], part)
        elif isinstance(values, dict):
            inner = values.get(part)
        names.append(name)
        values = inner
    return ".".join(names)


def parse_yaml(text: str) -> Any:
    """The YAML value of a text.

    Raises:
        ValueError: the text is no YAML; the message has one line.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(one_line(error)) from None
