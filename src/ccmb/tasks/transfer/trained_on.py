"""Which languages a model was trained on, by the recipe that its run saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.core.config.yaml_values import parse_yaml
from ccmb.core.errors import CcmbError
from ccmb.core.text.files import read_text
from ccmb.data.languages import tag_of


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What a model learned its languages from.

    Attributes:
        languages: tags; empty if nobody knows.
        images: how many its training was limited to; None: all.
        after: languages of the model that it started from, if a run of ours says so.
    """

    languages: tuple[str, ...] = ()
    images: int | None = None
    after: tuple[str, ...] = ()


def trained_on(source: str, stated: str | None = None) -> TrainedOn:
    """What a run's recipe says of its languages, or what the user says.

    Args:
        stated: languages with commas between, in the place of the recipe's.
    """
    recipe = _recipe(source)
    data, model = recipe.get("data") or {}, recipe.get("model") or {}
    after = trained_on(str(model["init_from"])).languages if model.get("init_from") else ()
    if stated is not None:
        return TrainedOn(tuple(tag_of(tag.strip()) for tag in stated.split(",")), data.get("max_images"), after)
    return TrainedOn(tuple(data.get("languages") or ()), data.get("max_images"), after)


def _recipe(source: str) -> dict[str, Any]:
    """The recipe of a run; nothing of what is no run, or no longer there."""
    path = Path(source) / "recipe.yaml"
    try:
        values = parse_yaml(read_text(path)) if path.is_file() else {}
    except (CcmbError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
