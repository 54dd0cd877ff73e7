"""The reference of recipe keys, from the typed recipes themselves.

`python -m ccmb.cli.recipe_keys`, in the repository's root, writes `docs/reference/recipe-keys.md` and its Chinese twin
anew. Every key comes from a field of a recipe, with the field's own type, default, bounds and description.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ccmb.core.config.retired_keys import part_in
from ccmb.core.files import atomic_write
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe

Language = Literal["en", "zh"]
PAGES: dict[Language, Path] = {
    "en": Path("docs") / "reference" / "recipe-keys.md",
    "zh": Path("docs") / "reference" / "recipe-keys.zh.md",
}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
COMMAND = "python -m ccmb.cli.recipe_keys"


class Key(NamedTuple):
    """A key of a recipe, as a line of the page.

    Attributes:
        name: in full, such as training.steps.
        kind: such as "number" or "one of `cosine`, `triangular`".
        default: as YAML writes it; None where it must be given.
        bounds: such as "> 0, ≤ 1".
        about: the field's description.
        before: names that the key had earlier and that still load.
    """

    name: str
    kind: str
    default: str | None
    bounds: str
    about: str
    before: tuple[str, ...] = ()


def keys_of(kind: type[BaseModel], prefix: str = "", defaults: BaseModel | None = None) -> Iterator[Key]:
    """The keys of a recipe and of its parts, in the order of its fields.

    Args:
        prefix: of the part's keys, with its dot.
        defaults: a part as its recipe has it by default, if that differs from the part's own defaults.
    """
    before = _earlier_names(kind)
    for name, field in kind.model_fields.items():
        default = getattr(defaults, name) if defaults is not None else default_of(field)
        part = part_in(field.annotation)
        if part is None or default is None:
            # What is a part or nothing is a key too, of which nothing is the default.
            about, names = field.description or "", tuple(before.get(name, ()))
            yield Key(
                name=f"{prefix}{name}",
                kind=kind_of(field),
                default=written(default),
                bounds=bounds_of(field),
                about=about,
                before=names,
            )
        if part is not None:
            own = default if isinstance(default, BaseModel) else None
            yield from keys_of(type(own) if own is not None else part, f"{prefix}{name}.", own)


def _earlier_names(kind: type[BaseModel]) -> dict[str, list[str]]:
    """Retired names of each field, from the part's table of retired keys."""
    names: dict[str, list[str]] = {}
    for base in kind.__mro__:
        for old, new in vars(base).get("RETIRED", {}).items():
            name = new if isinstance(new, str) else new.name
            if name != old:
                names.setdefault(name, []).append(old)
    return names


def default_of(field: FieldInfo) -> Any:
    """The default of a field; PydanticUndefined where it must be given."""
    if field.is_required():
        return PydanticUndefined
    default = field.get_default(call_default_factory=True)
    # A field whose default is None but whose type is not optional is one that a validator asks for.
    optional = type(None) in get_args(field.annotation) or field.annotation is type(None)
    return default if default is not None or optional else PydanticUndefined


def kind_of(field: FieldInfo) -> str:
    """The values that a field takes, in words."""
    return _kind(field.annotation)


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(part) for part in inner if part is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in inner)
    if hasattr(annotation, "__metadata__"):
        return _kind(inner[0])
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        kind = _kind(inner[0])
        is_plural = kind.startswith("one of ") or kind.endswith("s")
        return f"list of {kind.removeprefix('one of ')}" if is_plural else f"list of {kind}s"
    if origin is tuple:
        return f"{len(inner)} {_kind(inner[0])}s"
    if origin is dict or annotation is dict:
        return "keys and values"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(f"`{value.value}`" for value in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys and values"
    return {bool: "on or off", int: "whole number", float: "number", str: "text"}.get(annotation, "value")


def written(default: Any) -> str | None:
    """A default as YAML writes it on one line, or None where there is none."""
    if default is PydanticUndefined:
        return None
    if default is None:
        return "empty"
    if isinstance(default, bool):
        return "`true`" if default else "`false`"
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    if isinstance(default, dict):
        default = {key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in default.items()}
    if isinstance(default, tuple):
        default = list(default)
    text = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def bounds_of(field: FieldInfo) -> str:
    """Smallest and largest values of a field, or an empty string."""
    bounds = [
        f"{sign} {getattr(part, name)}"
        for part in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(part, name, None) is not None
    ]
    return ", ".join(bounds)


def fine_tuning_keys() -> list[Key]:
    """Keys that fine-tuning adds to those of pre-training, or has with another default."""
    known = set(keys_of(PretrainRecipe))
    return [key for key in keys_of(FinetuneRecipe) if key not in known]


HEADS: dict[Language, tuple[str, ...]] = {
    "en": (
        "# Recipe keys\n",
        "[中文](recipe-keys.zh.md)\n",
        "Every key of the recipes of `ccmb pretrain`, `ccmb finetune` and `ccmb corpus build`. A key is written in the",
        "recipe's YAML, or on the command line as `key=value`; `key=` empties it. An unknown key, a value out of",
        f"bounds and a key that would do nothing are refused by name. `{COMMAND}` writes this page anew.\n",
    ),
    "zh": (
        "# 配方键\n",
        "[English](recipe-keys.md)\n",
        "`ccmb pretrain`、`ccmb finetune` 与 `ccmb corpus build` 的配方中的全部键。键写在配方的 YAML 里，",
        "或在命令行上写成 `key=value`；`key=` 把它置空。不认识的键、超出范围的值，",
        "以及在当前配方下不起作用的键，都会被点名拒绝。",
        f"各键的说明取自代码，是英文。此页由 `{COMMAND}` 生成。\n",
    ),
}
TITLES: dict[Language, tuple[str, str, str]] = {
    "en": (
        "Pre-training\n\n`ccmb pretrain RECIPE [key=value ...] --out RUN`",
        "Fine-tuning\n\n`ccmb finetune RECIPE [key=value ...] --model RUN --out TUNED` has all keys of pre-training, "
        "and these, which are its own or have another default:",
        "The corpus\n\n`ccmb corpus build zero [key=value ...] --impressions LOGS --out CORPUS`",
    ),
    "zh": (
        "预训练\n\n`ccmb pretrain RECIPE [key=value ...] --out RUN`",
        "微调\n\n`ccmb finetune RECIPE [key=value ...] --model RUN --out TUNED` 有预训练的全部键，另有以下各键，"
        "它们是微调特有的，或默认值不同：",
        "语料\n\n`ccmb corpus build zero [key=value ...] --impressions LOGS --out CORPUS`",
    ),
}
# What is said of values, in Chinese; the longer first.
CHINESE = (
    ("keys and values", "键与值"), ("list of ", "列表："), ("whole numbers", "整数"), ("whole number", "整数"),
    ("2 numbers", "两个数"), ("numbers", "数"), ("number", "数"), ("on or off", "开或关"), ("texts", "文本"),
    ("text", "文本"), ("one of ", ""), (" or ", "或"), ("empty", "空"), ("must be given", "必须给出"), (", ", "，"),
)  # fmt: skip
COLUMNS: dict[Language, str] = {
    "en": "| key | takes | default | what it does |",
    "zh": "| 键 | 取值 | 默认值 | 说明 |",
}


def page(language: Language) -> str:
    """The whole page."""
    groups = (list(keys_of(PretrainRecipe)), fine_tuning_keys(), list(keys_of(ZeroRecipe)))
    sections = [f"## {title}\n\n{_table(keys, language)}" for title, keys in zip(TITLES[language], groups, strict=True)]
    return "\n".join([*HEADS[language], *sections])


def _table(keys: Iterable[Key], language: Language) -> str:
    lines = [COLUMNS[language], "|---|---|---|---|"]
    for key in keys:
        takes = f"{key.kind}, {key.bounds}" if key.bounds else key.kind
        default = "*must be given*" if key.default is None else key.default
        if language == "zh":
            takes, default = _in_chinese(takes), _in_chinese(default)
        about = key.about.replace("|", "\\|")
        if key.before:
            names = ", ".join(f"`{name}`" for name in key.before)
            about = f"{about} (before: {names})".strip()
        lines.append(f"| `{key.name}` | {takes} | {default} | {about} |")
    return "\n".join(lines) + "\n"


def _in_chinese(cell: str) -> str:
    """A cell in Chinese; text between backticks stays."""
    parts = cell.split("`")
    for index in range(0, len(parts), 2):
        for english, chinese in CHINESE:
            parts[index] = parts[index].replace(english, chinese if parts[index] != ", " else "、")
    return "`".join(parts)


if __name__ == "__main__":
    for language, path in PAGES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(page(language))
