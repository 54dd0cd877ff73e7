"""The reference of recipe keys is what the recipes say today, and a recipe takes every key that stands in it."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import BaseModel, Field

from ccmb.cli.recipe_keys import COMMAND, PAGES, Key, Language, keys_of, page
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.pages import ROOT, read


@pytest.mark.parametrize("language", PAGES)
def test_the_page_is_up_to_date(language: Language) -> None:
    assert read(str(PAGES[language])) == page(language), f"write it anew: {COMMAND}, in the repository's root"


def test_both_languages_have_the_same_keys() -> None:
    english, chinese = (re.findall(r"^\| `([\w.]+)`", page(language), re.MULTILINE) for language in ("en", "zh"))
    assert english == chinese
    assert len(english) > 190


class Inner(BaseModel):
    share: float = Field(0.5, gt=0, le=1, description="of it | all")


class Outer(BaseModel):
    RETIRED: ClassVar = {"number": "count", "names": "names"}
    count: int
    names: tuple[str, ...] = ()
    inner: Inner = Inner(share=0.25)
    maybe: Inner | None = None
    switch: bool = False


def test_a_recipe_becomes_lines() -> None:
    assert list(keys_of(Outer)) == [
        Key("count", "whole number", None, "", "", ("number",)),
        Key("names", "list of texts", "`[]`", "", ""),
        Key("inner.share", "number", "`0.25`", "> 0, ≤ 1", "of it | all"),  # the default of the recipe, not the part's
        Key("maybe", "keys and values", "empty", "", ""),
        Key("maybe.share", "number", "`0.5`", "> 0, ≤ 1", "of it | all"),
        Key("switch", "on or off", "`false`", "", ""),
    ]


@pytest.mark.parametrize("kind", [PretrainRecipe, FinetuneRecipe, ZeroRecipe])
def test_every_default_is_one_that_the_recipe_takes(kind: type[BaseModel]) -> None:
    values: dict[str, Any] = {}
    for key in keys_of(kind):
        *parents, last = key.name.split(".")
        section: dict[str, Any] | None = values
        for parent in parents:
            if section is not None and section.get(parent, {}) is None:
                section = None
            section = None if section is None else section.setdefault(parent, {})
        if section is not None and key.default is not None:
            section[last] = None if key.default == "empty" else yaml.safe_load(key.default.strip("`"))
    needed: dict[str, Any] = {}
    if issubclass(kind, PretrainRecipe):
        values["data"]["folder"], values["training"]["steps"] = "pairs", 10
        needed = {"data": {"folder": "pairs"}, "training": {"steps": 10}}
    assert kind.model_validate(values).model_dump() == kind.model_validate(needed).model_dump()


def test_every_recipe_key_in_a_page_exists() -> None:
    known = {key.name for kind in (FinetuneRecipe, ZeroRecipe) for key in keys_of(kind)}
    parts = {name.rpartition(".")[0] for name in known}
    sections = "|".join(sorted({name.partition(".")[0] for name in known if "." in name}))
    named = {
        key
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for code in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8"))
        for key in re.findall(rf"(?<![\w./-])((?:{sections})(?:\.[a-z_]+)+)(?![\w/(])", code)
        if key.rpartition(".")[2] not in ("json", "jsonl", "parquet", "py", "tar", "tsv", "txt", "yaml")
    }
    assert len(named) > 50
    # The configurations of towers are those of transformers.
    assert sorted(key for key in named if key not in known | parts and not key.startswith("model.vision.")) == []
