"""Values of recipes and overrides: YAML 1.1, but with the numbers of YAML 1.2."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ccmb.core.errors import UsageError, one_line


class _Loader(yaml.SafeLoader):
    """YAML 1.1 that also reads 5e-4 and 5e2 as numbers, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def override_key(values: dict[str, Any], override: str) -> None:
    """Set one key by an override `key=value`.

    Raises:
        UsageError: the override is malformed, or its value is not YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"override '{override}': write key=value, such as training.steps=200")
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    try:
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"override '{override}': the value is not valid YAML ({error})") from None


def parse_yaml(text: str) -> Any:
    """The YAML value of a text.

    Raises:
        ValueError: the text is no YAML; the message has one line.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(one_line(error)) from None
