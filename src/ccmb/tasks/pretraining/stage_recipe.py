"""Stages of a pre-training: what each changes of the recipe, and the whole recipe of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.given_keys import Unused
from ccmb.core.config.recipe_files import hint_for
from ccmb.core.config.retired_keys import renamed_values
from ccmb.objectives.config import Objectives
from ccmb.tasks.pretraining.model import CHANGED
from ccmb.tasks.pretraining.unused_keys import Trains, unused_in_pretraining
from ccmb.training.recipe import DataRecipe, ModelRecipe, OptimizerRecipe, TrainingRecipe

SECTIONS: dict[str, type[ConfigBase]] = {
    "data": DataRecipe,
    "model": ModelRecipe,
    "objectives": Objectives,
    "optimizer": OptimizerRecipe,
    "training": TrainingRecipe,
}
# What the network and the processes of a run are; all stages share it.
SHARED = {
    "model": {
        "init_from", "preset", "vision", "text", "embed_dim", "projection_hidden", "projection_heads", "image_pooling",
        "text_pooling", "text_prefix", "cross_layers", "decoder_layers", "decoder_max_tokens", "reduced_tokens",
        "initial_temperature", "vocab_size", "licenses",
    },
    "training": {"seed", "device", "parallel", "threads"},
}  # fmt: skip
# Keys of which a recipe has one or the other: a stage that gives the first has not the recipe's second.
INSTEAD = (
    (("training", "steps"), ("training", "epochs")),
    (("training", "epochs"), ("training", "steps")),
    (("data", "folder"), ("data", "shards")),
    (("data", "shards"), ("data", "folder")),
    (("data", "field_starts"), ("data", "field_weights")),
    (("data", "field_weights"), ("data", "field_starts")),
    (("model", "freeze_image_tower"), ("model", "freeze", "image")),
    (("model", "freeze", "image"), ("model", "freeze_image_tower")),
    (("model", "image_size"), ("model", "vision", "image_size")),
)
# Of a recipe's length a stage gives one key or the other.
LENGTHS = {"training.steps": "training.epochs", "training.epochs": "training.steps"}
SEEDS_APART = 1000


class StageRecipe(ConfigBase):
    """One stage: its name, and the keys of each section that differ from the recipe's."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=40, description="lower-case letters, digits and hyphens")
    data: dict[str, Any] = Field({}, description="keys of data that differ")
    model: dict[str, Any] = Field({}, description="keys of model that differ; not what the network is made of")
    objectives: dict[str, Any] = Field({}, description="keys of objectives that differ")
    optimizer: dict[str, Any] = Field({}, description="keys of optimizer that differ")
    training: dict[str, Any] = Field({}, description="keys of training that differ; not seed, device or processes")

    @model_validator(mode="before")
    @classmethod
    def _by_names_of_today(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {
            key: renamed_values(SECTIONS[key], value)[0] if key in SECTIONS else value for key, value in values.items()
        }
        for section, shared in SHARED.items():
            part = values.get(section)
            if key := next((key for key in part if key in shared), None) if isinstance(part, dict) else None:
                raise _error((section, key), part[key], f"it is one for all stages; give {section}.{key} beside them")
        return values

    def differences(self) -> dict[str, dict[str, Any]]:
        """What the stage gives, by section."""
        return {section: getattr(self, section) for section in SECTIONS}

    def given(self) -> Iterator[str]:
        """The keys that the stage gives, in full, with its name before them."""
        yield f"{self.name}.name"
        weights = {
            name: {"weight": value} if isinstance(value, bool) else value for name, value in self.objectives.items()
        }
        for section, values in (self.differences() | {"objectives": weights}).items():
            yield from _leaves(values, f"{self.name}.{section}")

    def forget(self, key: str) -> None:
        """Remove a key, such as `optimizer.lr`."""
        section, *parents, last = key.split(".")
        values = getattr(self, section)
        for parent in parents:
            values = values[parent] if isinstance(values[parent], dict) else values
        values.pop(last if last in values else parents[-1], None)

    def with_steps(self, steps: int) -> Self:
        """The stage with so many steps, instead of epochs or of the recipe's length."""
        own = {key: value for key, value in self.training.items() if key != "epochs"}
        return self.model_copy(update={"training": own | {"steps": steps}})


class InStages(Trains, Protocol):
    """The parts of a recipe that are read here; recipes call these functions, which cannot import their classes."""

    training: TrainingRecipe
    stages: list[StageRecipe]

    def model_dump(self, *, exclude_unset: bool, exclude: set[str]) -> dict[str, Any]: ...

    @classmethod
    def model_validate(cls, obj: Any) -> Self: ...


R = TypeVar("R", bound=InStages)


def with_default_length(values: Any) -> Any:
    """A recipe's values, of which training.steps is that of a stage if all stages give theirs and the recipe gives
    none."""
    stages = values.get("stages") if isinstance(values, dict) else None
    training = (values.get("training") or {}) if isinstance(values, dict) else None
    if not isinstance(stages, list) or not stages or not isinstance(training, dict) or _length(training):
        return values
    lengths = [_length(_at(stage, ("training",))) for stage in stages]
    if not all(lengths):
        return values
    key, value = lengths[0] or ("steps", 1)
    sound = isinstance(value, int | float) and value > 0  # else the stage's own check says what is wrong
    return values | {"training": training | ({key: value} if sound else {"steps": 1})}


def in_stages(recipe: R) -> list[R]:
    """The whole recipe of each stage, by itself one of a run without stages.

    Each has a seed of its own, SEEDS_APART from that of the one before: with one seed a stage would see the images of
    the one before in the same order.

    Raises:
        ValidationError: one is no recipe; its keys begin with `stages` and the stage's number from 0.
    """
    kind: Any = type(recipe)
    base = recipe.model_dump(exclude_unset=True, exclude={"stages"})
    made: list[R] = []
    for index, stage in enumerate(recipe.stages):
        values = merged(base, stage.differences())
        try:
            made.append(kind.model_validate(values))
        except ValidationError as error:
            raise _within(error, index, kind) from None
        training = made[-1].training
        training.seed = (training.seed + SEEDS_APART * index) % 2**32
    return made


def merged(base: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe with those of a stage in their places; mappings are merged, all else is replaced."""
    result = _merged(base, {**differences, "objectives": _switched(base, differences.get("objectives", {}))})
    for given, other in INSTEAD:
        if _at(differences, given) is not None and _at(differences, other) is None:
            *parents, last = other
            holder = _at(result, tuple(parents))
            if isinstance(holder, dict):
                holder.pop(last, None)
    return result


def check_stages(recipe: InStages) -> None:
    """Check each stage as a recipe, and the stages as a sequence.

    Raises:
        ValidationError: its keys begin with `stages` and the stage's number from 0.
    """
    names = [stage.name for stage in recipe.stages]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _error(("stages", index, "name"), name, "an earlier stage has this name")
    in_stages(recipe)
    # What nobody gives stays as the network has it, and its network is that of the stage before.
    kept = ("image_size", "max_text_tokens", *CHANGED) if recipe.model.init_from else ("image_size",)
    for key in kept:
        if key in recipe.model.model_fields_set and getattr(recipe.model, key) is not None:
            continue
        changed = ""
        for index, stage in enumerate(recipe.stages):
            if key in stage.model:
                changed = stage.name
            elif changed:
                fix = f"stage {changed} gives it, so give it here too, or to all stages as model.{key}"
                raise _error(("stages", index, "model", key), None, fix)


def joint_objectives(recipes: Sequence[Trains]) -> Objectives:
    """The objectives of the first stage, and those that a later one adds."""
    joint = recipes[0].objectives
    for recipe in recipes[1:]:
        added = [name for name in recipe.objectives.on() if name not in joint.on()]
        joint = joint.model_copy(update={name: getattr(recipe.objectives, name) for name in added})
    return joint


def unused_in_stages(recipe: InStages) -> Iterator[Unused]:
    """Keys of a stage that do nothing in it, and keys of the recipe that do nothing in any stage."""
    of_stages = [list(unused_in_pretraining(stage)) for stage in in_stages(recipe)]
    for stage, unused in zip(recipe.stages, of_stages, strict=True):
        for keys, why, causes, obeyed in unused:
            if not obeyed:
                both = (*causes, *(f"stages.{stage.name}.{cause}" for cause in causes))
                yield Unused(tuple(f"stages.{stage.name}.{key}" for key in keys), why, both)
    elsewhere = [{key for one in unused for key in one.keys} for unused in of_stages[1:]]
    for keys, why, causes, obeyed in of_stages[0]:
        everywhere = tuple(key for key in keys if all(key in others for others in elsewhere))
        both = (*causes, *(f"stages.{stage.name}.{cause}" for stage in recipe.stages for cause in causes))
        yield Unused(everywhere, why, both, obeyed)
    yield from _given_by_all_stages(recipe)


def _given_by_all_stages(recipe: InStages) -> Iterator[Unused]:
    """Keys of the recipe that no stage takes from it."""
    given = [{key.removeprefix(f"{stage.name}.") for key in stage.given()} for stage in recipe.stages]
    keys = set[str].intersection(*given) - {"name", *LENGTHS}
    first, own = _length(recipe.stages[0].training), _length(recipe.training.model_dump())
    if (
        own and own != first and all(LENGTHS.keys() & of_stage for of_stage in given)
    ):  # else `with_default_length` gave it
        keys.add(f"training.{own[0]}")
    for key in sorted(keys):
        yield Unused(
            (key,), "every stage gives its own", tuple(f"stages.{stage.name}.{key}" for stage in recipe.stages)
        )


def _merged(base: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in differences.items():
        before = result.get(key)
        if isinstance(value, Mapping):
            value = _merged(before if isinstance(before, Mapping) else {}, value)
        result[key] = value
    return result


def _switched(base: Mapping[str, Any], objectives: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's objectives with a weight for `on` and `off`, beside which the recipe's other keys of them stay."""
    result = dict(objectives)
    for name, value in objectives.items():
        before = base.get("objectives", {}).get(name)
        if isinstance(value, bool) and isinstance(before, Mapping):
            result[name] = {"weight": (before.get("weight") or 1.0) if value else 0.0}
    return result


def _at(values: Any, key: Iterable[str]) -> Any:
    """The value of a key, or None."""
    for part in key:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"


def _length(training: Any) -> tuple[str, Any] | None:
    """The key that says how long a training is, and its value."""
    given = [(key, _at(training, (key,))) for key in ("steps", "epochs")]
    return next((one for one in given if one[1] is not None), None)


def _error(location: tuple[int | str, ...], value: Any, text: str, kind: str = "value_error", hint: str = "") -> Any:
    """An error of validation with a place of its own."""
    custom = PydanticCustomError(kind, "{text}", {"text": text, "hint": hint})
    details = InitErrorDetails(type=custom, loc=location, input=value)
    return ValidationError.from_exception_data("stages", [details])


def _within(error: ValidationError, index: int, kind: type[ConfigBase]) -> Any:
    """The first error of a stage's recipe, as one of the recipe that has the stage."""
    first = error.errors()[0]
    location = first["loc"]
    hint = hint_for(kind, location) if first["type"] == "extra_forbidden" else ""
    return _error(("stages", index, *location), first["input"], first["msg"], first["type"], hint)
