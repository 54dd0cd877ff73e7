"""Which keys of a recipe were given. A given key that would do nothing is refused by name.

A key of the recipe's file gives way to an override that makes it useless, and a message reports that. For example, a
shipped recipe describes a network, which `model.init_from=RUN` replaces. A key of an override is obeyed or refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from ccmb.core.errors import UsageError

_LOG = logging.getLogger(__name__)


class Unused(NamedTuple):
    """Keys that would do nothing.

    Attributes:
        keys: each stands for all keys below it, too.
        why: the reason, such as "of shards, and data.folder is given".
        causes: the keys that make them useless.
        obeyed: whether the keys are obeyed if they and the cause are given in the same place. Then only keys of a file
            give way, to an override.
    """

    keys: tuple[str, ...]
    why: str
    causes: tuple[str, ...]
    obeyed: bool = False


@runtime_checkable
class SaysUnused(Protocol):
    """A recipe that knows which of its keys would do nothing."""

    def unused(self) -> Iterable[Unused]:
        """The keys that would do nothing, whether they were given or not."""


@runtime_checkable
class Differences(Protocol):
    """An item of a list in a recipe: a name, and keys that differ from the recipe's."""

    name: str

    def given(self) -> Iterable[str]:
        """The given keys in full, with the item's name before them."""

    def forget(self, key: str) -> None:
        """Remove a given key; the item's name does not stand before it."""


R = TypeVar("R", bound=BaseModel)


def settle(recipe: R, path: Path, overrides: Sequence[str]) -> R:
    """The recipe without the keys that give way to overrides.

    Afterwards `model_fields_set` of each part holds the given keys: those of an override, and those of the file whose
    value is not the default.

    Raises:
        UsageError: a given key would do nothing; the message names the key and where it stands.
        CcmbError: the recipe starts from a run or model that does not exist.
    """
    given = dict(given_keys(recipe, overrides))
    gone: dict[str, list[str]] = {}
    unused: Iterable[Unused] = recipe.unused() if isinstance(recipe, SaysUnused) else ()
    for keys, why, causes, obeyed in unused:
        for key, override in given.items():
            if not any(touches(key, unused_key) for unused_key in keys) or key in gone:
                continue
            cause = next((text for text in overrides for unused_key in causes if touches(_key(text), unused_key)), None)
            if override is not None or cause is None:
                if obeyed:
                    continue
                where = f"override '{override}'" if override else str(path)
                raise UsageError(f"{where}: '{key}' would do nothing ({why}); leave it out")
            gone.setdefault(key, []).append(cause)
    for key in gone:
        _forget(recipe, key)
    _forget_defaults(recipe, set(given) - set(gone))
    if gone and os.environ.get("RANK", "0") == "0":
        cause = ", ".join(dict.fromkeys(causes[0] for causes in gone.values()))
        verb = "gives way" if len(gone) == 1 else "give way"
        _LOG.warning("%s: %s %s to %s", path.name, ", ".join(gone), verb, cause)
    return recipe


def given_keys(recipe: BaseModel, overrides: Sequence[str] = (), prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Each given key in full, with the override that gave it, or None if the file did."""
    for name in type(recipe).model_fields:
        if name not in recipe.model_fields_set:
            continue
        key, value = f"{prefix}{name}", getattr(recipe, name)
        if isinstance(value, BaseModel):
            below = list(given_keys(value, overrides, f"{key}."))
            # A part that is not there by default is itself given, whether or not a key of it differs from its default.
            yield from below or ([] if _default(recipe, name) is not None else [(key, _override_for(key, overrides))])
            continue
        items = value if isinstance(value, list) else []
        for inner in (f"{key}.{text}" for item in items if isinstance(item, Differences) for text in item.given()):
            yield inner, _override_for(inner, overrides)
        if any(isinstance(item, Differences) for item in items):
            continue
        override = _override_for(key, overrides)
        if override is not None or value != _default(recipe, name):
            yield key, override


def _override_for(key: str, overrides: Sequence[str]) -> str | None:
    return next((text for text in reversed(overrides) if touches(_key(text), key)), None)


def touches(one: str, other: str) -> bool:
    """Whether one of two keys is the other or lies within it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def is_given(part: BaseModel, *names: str) -> list[str]:
    """The given ones among some keys of a part of a settled recipe."""
    return [name for name in names if name in part.model_fields_set]


def refuse_keys(part: BaseModel, prefix: str, why: str) -> None:
    """Refuse all given keys of a part of a settled recipe: raise a UsageError that names the first one.

    Args:
        prefix: the prefix of the part's keys, such as "score.".
        why: why they would do nothing, and what to do.
    """
    for name in type(part).model_fields:
        value = getattr(part, name)
        if name in part.model_fields_set and isinstance(value, BaseModel):
            refuse_keys(value, f"{prefix}{name}.", why)
        elif name in part.model_fields_set:
            raise UsageError(f"'{prefix}{name}' would do nothing ({why}, or leave it out)")


def _key(override: str) -> str:
    return override.partition("=")[0]


def _default(part: BaseModel, name: str) -> Any:
    return type(part).model_fields[name].get_default(call_default_factory=True)


def _forget(recipe: BaseModel, key: str) -> None:
    """Reset a key to its default, as if it had not been given."""
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        part = getattr(recipe, parent)
        if isinstance(part, list):
            name, *inner = key.split(".")[depth + 1 :]
            next(item for item in part if item.name == name).forget(".".join(inner))
            return
        recipe = part
    setattr(recipe, last, _default(recipe, last))
    recipe.model_fields_set.discard(last)


def _forget_defaults(recipe: BaseModel, given: set[str], prefix: str = "") -> None:
    for name in list(recipe.model_fields_set):
        value, key = getattr(recipe, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            _forget_defaults(value, given, f"{key}.")
        elif not any(touches(one, key) for one in given):
            recipe.model_fields_set.discard(name)
