"""Keys of a recipe that were given, and those that would do nothing as the recipe stands: these are refused by name.

What a recipe's file says gives way to an override that leaves no use for it, and that is said: a shipped recipe has a
network of its own, which `model.init_from=RUN` replaces. What an override itself says is obeyed or refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from ccmb.core.errors import UsageError


class Unused(NamedTuple):
    """Keys without use.

    Attributes:
        keys: each with all that is below it.
        why: such as "of shards, and data.folder is given".
        causes: the keys that leave them without use.
        obeyed: whether they have a use after all where they are given beside the cause, in one place: only those of a
            file give way to an override.
    """

    keys: tuple[str, ...]
    why: str
    causes: tuple[str, ...]
    obeyed: bool = False


@runtime_checkable
class SaysUnused(Protocol):
    """A recipe that knows which of its keys would do nothing."""

    def unused(self) -> Iterable[Unused]:
        """They, whether they were given or not."""


R = TypeVar("R", bound=BaseModel)


def settle(recipe: R, path: Path, overrides: Sequence[str]) -> R:
    """The recipe without what gives way to overrides; its parts' `model_fields_set` are then what was given: by an
    override, or by the file with another value than the default.

    Raises:
        UsageError: a key was given that does nothing; the message names it and where it stands.
        CcmbError: what the recipe starts from, on which it depends, is not there.
    """
    given = dict(given_keys(recipe, overrides))
    gone: dict[str, list[str]] = {}
    unused: Iterable[Unused] = recipe.unused() if isinstance(recipe, SaysUnused) else ()
    for keys, why, causes, obeyed in unused:
        for key, override in given.items():
            if not any(touches(key, of) for of in keys) or key in gone:
                continue
            cause = next((text for text in overrides for of in causes if touches(_key(text), of)), None)
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
        print(f"ccmb: {path.name}: {', '.join(gone)} {verb} to {cause}", file=sys.stderr, flush=True)
    return recipe


def given_keys(recipe: BaseModel, overrides: Sequence[str] = (), prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Each key that was given, in full, with the override that did, or None where the file did."""
    for name in type(recipe).model_fields:
        if name not in recipe.model_fields_set:
            continue
        key, value = f"{prefix}{name}", getattr(recipe, name)
        if isinstance(value, BaseModel):
            yield from given_keys(value, overrides, f"{key}.")
            continue
        override = next((text for text in reversed(overrides) if touches(_key(text), key)), None)
        if override is not None or value != _default(recipe, name):
            yield key, override


def touches(one: str, other: str) -> bool:
    """Whether one of two keys is the other or lies within it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def is_given(part: BaseModel, *names: str) -> list[str]:
    """Those of some keys of a settled recipe's part that were given."""
    return [name for name in names if name in part.model_fields_set]


def refuse_keys(part: BaseModel, prefix: str, why: str) -> None:
    """Raise a UsageError that names the first key of a settled recipe's part that was given, if one was.

    Args:
        prefix: of the part's keys, such as "score.".
        why: they would do nothing, and what to do.
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
    """Put a key back to its default, as if it had not been given."""
    *parents, last = key.split(".")
    for parent in parents:
        recipe = getattr(recipe, parent)
    setattr(recipe, last, _default(recipe, last))
    recipe.model_fields_set.discard(last)


def _forget_defaults(recipe: BaseModel, given: set[str], prefix: str = "") -> None:
    for name in list(recipe.model_fields_set):
        value, key = getattr(recipe, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            _forget_defaults(value, given, f"{key}.")
        elif key not in given:
            recipe.model_fields_set.discard(name)
