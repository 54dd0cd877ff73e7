"""Recipes: typed values from YAML and the command line. Errors name the wrong key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from ccmb.core.config.given_keys import settle, touches
from ccmb.core.config.retired_keys import (
    part_of,
    renamed_overrides,
    renamed_values,
    retired_keys,
    say_renamed,
)
from ccmb.core.config.yaml_values import key_of, override_key, parse_yaml
from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.files import atomic_write
from ccmb.core.text.files import read_text

RECIPES = Path(__file__).parents[2] / "recipes"
BASE = "base"  # key of a recipe that is laid over another


R = TypeVar("R", bound=BaseModel)


def find_recipe(name: str, shipped_in: Path = RECIPES) -> Path:
    """The path of a recipe: as given, or of a shipped recipe by its name.

    Raises:
        UsageError: neither exists; the message lists the shipped ones.
    """
    for path in (Path(name), shipped_in / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = sorted(path.stem for path in shipped_in.glob("*.yaml"))
    raise UsageError(f"{name}: no such recipe{did_you_mean(name, shipped)}; shipped recipes: {', '.join(shipped)}")


def load_recipe(kind: type[R], path: Path, overrides: Sequence[str] = (), settled: bool = True) -> R:
    """Read a recipe and apply overrides such as `objectives.fgr=off` or `training.steps=200`.

    Args:
        settled: whether to refuse keys that would do nothing, to note which keys were given (see `given_keys.settle`),
            and to report keys that have another name now. Without it the file is one that a run saved, maybe by an
            older version.

    Raises:
        UsageError: an unknown key, a wrong value, a malformed override, a key that would do nothing, or one that is
            given by an old name and by that of today; the message names the key.
        CcmbError: the file cannot be read or is not YAML.
    """
    values = _values(path)
    try:
        values, renamed = renamed_values(kind, values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    overrides, renamed_by_hand = renamed_overrides(kind, overrides)
    if settled:
        say_renamed(renamed, path.name)
        say_renamed(renamed_by_hand, "overrides")
    overrides = [override_key(values, override) for override in overrides]
    recipe = check_recipe(kind, values, str(path), overrides)
    return settle(recipe, path, overrides) if settled else recipe


def _values(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file, laid over those of the recipe that its `base` names, a shipped one or a file beside it.

    Raises:
        UsageError: there is no such recipe, or it is its own base.
        CcmbError: see `load_recipe`.
    """
    try:
        values = parse_yaml(read_text(path))
    except ValueError as error:
        raise CcmbError(f"{path}: not valid YAML ({error})") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise CcmbError(f"{path}: expected keys and values")
    if BASE not in values:
        return values
    name, folder = str(values.pop(BASE)), path.parent
    base = next((file for file in (folder / name, folder / f"{name}.yaml") if file.is_file()), None)
    base = find_recipe(name) if base is None else base
    if base.resolve() in above:
        raise UsageError(f"{path}: base={name} leads back to itself")
    return laid_over(_values(base, (*above, path.resolve())), values)


def laid_over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`base` with some values replaced: keys of two mappings are laid over each other, anything else is replaced."""
    merged = dict(base)
    for key, value in values.items():
        before = merged.get(key)
        merged[key] = laid_over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def check_recipe(kind: type[R], values: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> R:
    """Build the typed recipe.

    Raises:
        UsageError: a key is wrong. The message names the first wrong key and where it stands: in the last of
            `overrides` that touches it, or else in the file `where`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(values, first["loc"])
        where = next(
            (f"override '{override}'" for override in reversed(overrides) if touches(override.partition("=")[0], key)),
            where,
        )
        if first["type"] == "extra_forbidden":
            hint = first.get("ctx", {}).get("hint") or hint_for(kind, first["loc"])
            raise UsageError(f"{where}: unknown key '{key}'{hint}") from None
        if first["type"] == "missing":
            raise UsageError(f"{where}: key '{key}' is missing") from None
        raise UsageError(f"{where}: '{key}' = {first['input']!r}: {first['msg'].lower()}") from None


def save_recipe(recipe: BaseModel, path: Path) -> None:
    """Write the resolved recipe."""
    with atomic_write(path) as file:
        yaml.safe_dump(recipe.model_dump(mode="json"), file, allow_unicode=True, sort_keys=False)


def data_folder(name: str) -> Path:
    """The folder as given, or below $CCMB_DATA.

    Raises:
        CcmbError: neither exists; the message names both paths and the fix.
    """
    candidates = [Path(name).expanduser()]
    if root := os.environ.get("CCMB_DATA"):
        candidates.append(Path(root).expanduser() / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = " or ".join(str(candidate) for candidate in candidates)
    raise CcmbError(f"{looked}: no such folder; give data.folder=FOLDER or set CCMB_DATA to the folder that holds it")


def hint_for(kind: type[BaseModel], location: Sequence[int | str]) -> str:
    """What an unknown key may have been meant for; one that is like an old name, for the name of today."""
    for name in location[:-1]:
        inner = part_of(kind, str(name))
        if inner is None:
            return ""
        kind = inner
    known, retired = list(kind.model_fields), retired_keys(kind)
    wrong = str(location[-1])
    hint = did_you_mean(wrong, known) or did_you_mean(wrong, list(retired), lambda old: retired[old].name)
    return hint or f"; known keys: {', '.join(known)}"


def find_weights(name: str) -> str:
    """A folder of weights as given, or below $CCMB_DATA; other names are returned as they are: a hub's."""
    root = os.environ.get("CCMB_DATA")
    if root and not Path(name).is_dir() and (below := Path(root).expanduser() / name).is_dir():
        return str(below)
    return name
