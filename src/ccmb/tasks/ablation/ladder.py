"""The ladder of an ablation: rungs, each a name and what it changes of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ccmb.core.choices import ObjectiveName
from ccmb.core.config.given_keys import touches
from ccmb.core.config.yaml_values import parse_yaml
from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.text.files import read_text
from ccmb.r2d2.presets import PRESETS
from ccmb.tasks.ablation.stages import objectives_of
from ccmb.tasks.common.datasets import NAME
from ccmb.tasks.pretraining.recipe import PretrainRecipe

# The objectives of each rung, and the rung that it is compared with. The paper adds ranking to pre-ranking, then
# masked words, then two-way distillation; that both distillations are also tried one at a time is our choice.
DEFAULT: dict[str, tuple[tuple[ObjectiveName, ...], str | None]] = {
    "towers": (("gcpr",), None),
    "fgr": (("gcpr", "fgr"), "towers"),
    "mlm": (("gcpr", "fgr", "mlm"), "fgr"),
    "tgd": (("gcpr", "fgr", "mlm", "tgd"), "mlm"),
    "fgd": (("gcpr", "fgr", "mlm", "fgd"), "mlm"),
    "all": (("gcpr", "fgr", "mlm", "tgd", "fgd"), "mlm"),
}


@dataclass(frozen=True, slots=True)
class Rung:
    """One variant of the recipe.

    Attributes:
        name: also that of its folder.
        overrides: `key=value` changes to the recipe, applied last.
        compared_with: name of the rung that its difference is taken to; None for the first.
    """

    name: str
    overrides: tuple[str, ...]
    compared_with: str | None


def default_ladder(recipe: PretrainRecipe) -> list[Rung]:
    """The rungs of DEFAULT, from the towers alone to the recipe as it stands.

    A rung only switches objectives off, so that the last one is the recipe. Objectives that the recipe itself leaves
    out make no rung. Without ranking and masked words the network has no cross encoders (PRD2), unless a model to start
    from settles that.
    """
    on, same_as, rungs = objectives_of(recipe), dict[frozenset[str], str](), list[Rung]()
    for name, (objectives, before) in DEFAULT.items():
        kept = frozenset(objectives).intersection(on)
        if not kept or kept in same_as:
            continue
        same_as[kept] = name
        overrides = [f"objectives.{one}=off" for one in on if one not in kept]
        if not {"fgr", "mlm"} & kept:
            overrides += _without_cross_encoders(recipe)
        compared = same_as.get(frozenset(DEFAULT[before][0]).intersection(on)) if before else None
        rungs.append(Rung(name, tuple(overrides), compared if rungs else None))
    return rungs


def _without_cross_encoders(recipe: PretrainRecipe) -> list[str]:
    model = recipe.model
    if model.init_from:
        return []  # its weights settle the shape of the network
    if model.preset is None:
        return ["model.cross_layers=0"] if model.cross_layers else []
    towers = model.preset.replace("r2d2", "prd2")
    return [f"model.preset={towers}"] if towers in PRESETS and towers != model.preset else []


def read_ladder(path: Path) -> list[Rung]:
    """The rungs of a YAML file: names with their overrides, `easy: {objectives.fgr.hardness: 0.0}`.

    The overrides of a rung are keys in full with their values, a list of `key=value`, or nothing for the recipe as it
    stands. Each rung is compared with the one before it.

    Raises:
        CcmbError: the file cannot be read or is not YAML.
        UsageError: a rung is malformed; the message names it.
    """
    try:
        values = parse_yaml(read_text(path))
    except ValueError as error:
        raise CcmbError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(values, dict) or not values:
        raise UsageError(f"{path}: a ladder is names with overrides, such as easy: {{objectives.fgr.hardness: 0.0}}")
    _check_names(values, path)
    rungs = list[Rung]()
    for name, changes in values.items():
        overrides = tuple(_overrides(changes, f"{path}: rung '{name}'"))
        rungs.append(Rung(name, overrides, rungs[-1].name if rungs else None))
    return rungs


def choose(ladder: Sequence[Rung], names: Sequence[str]) -> list[Rung]:
    """The named rungs in the order of the ladder; all of them without names.

    A rung whose neighbour was not chosen is compared with the chosen one before it.

    Raises:
        UsageError: a name is unknown or given twice, or a single rung is left: there is nothing to compare.
    """
    known = [rung.name for rung in ladder]
    for index, name in enumerate(names):
        if name not in known:
            raise UsageError(f"--rungs {name}: no such rung{did_you_mean(name, known)}; rungs: {', '.join(known)}")
        if name in names[:index]:
            raise UsageError(f"--rungs {name}: given twice")
    chosen = [rung for rung in ladder if not names or rung.name in names]
    if len(chosen) < 2:
        only = f" ({chosen[0].name})" if chosen else ""
        raise UsageError(f"an ablation compares at least two rungs, and this ladder has {len(chosen)}{only}")
    kept, result = {rung.name for rung in chosen}, list[Rung]()
    for rung in chosen:
        before = result[-1].name if result else None
        near = rung.compared_with if rung.compared_with in kept else before
        result.append(replace(rung, compared_with=near if before else None))
    return result


def _check_names(values: Mapping[Any, Any], path: Path) -> None:
    for name in values:
        if not isinstance(name, str):
            raise UsageError(f"{path}: rung {name!r}: YAML reads this name as no text; write it in quotes")
        if not NAME.fullmatch(name) or name.startswith("."):
            raise UsageError(f"{path}: rung '{name}': give a name of letters, digits, '.', '-' and '_'")
    folded = [name.casefold() for name in values]  # they become folders, also where a disk ignores case
    if twice := next((name for index, name in enumerate(values) if folded[index] in folded[:index]), None):
        raise UsageError(f"{path}: rung '{twice}': there are two of this name")


def _overrides(changes: Any, where: str) -> Iterator[str]:
    if isinstance(changes, dict):
        texts = [f"{key}={_inline(value)}" for key, value in changes.items()]
    elif isinstance(changes, list) and all(isinstance(text, str) for text in changes):
        texts = changes
    elif changes is None:
        texts = []
    else:
        raise UsageError(f"{where}: give keys with values, or a list of key=value, not {changes!r}")
    for text in texts:
        if touches(text.partition("=")[0], "training.seed"):
            raise UsageError(f"{where}: '{text}': seeds are those of --seeds; leave it out")
        yield text


def _inline(value: Any) -> str:
    """A value as one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000)
    return text.removesuffix("...\n").strip()
