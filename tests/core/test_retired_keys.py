"""Keys of recipes by the names that they had before: each still loads and is the key of today, and none twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel

from ccmb.core.config.recipe_files import RECIPES, check_recipe, load_recipe, save_recipe
from ccmb.core.config.retired_keys import Retired, part_of, renamed_values, retired_keys
from ccmb.core.errors import UsageError
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.training.recipe import BestRecipe, TrainingRecipe

KINDS: tuple[type[BaseModel], ...] = (PretrainRecipe, FinetuneRecipe, ZeroRecipe)
# Values other than the default, of keys whose type alone does not say what is allowed.
VALUES: dict[str, Any] = {
    "data.dataset": "muge", "optimizer.max_grad_norm": 0.5, "optimizer.lr_decay_stages": 3,
    "optimizer.muon_lr_scale": 2.5, "training.grad_cache_chunk": 4, "training.best.metric": "gcpr",
    "model.init_from": "runs/x", "generation.image_size": 32, "generation.trainable": "attention",
    "validation.images": 7, "clicks.ctr_lower_bound": "beta", "pairs.max_domain_share": 0.5, "pairs.min_score": 0.3,
    "text.max_texts_per_template": 9, "score.min_score": 0.3, "download.resize.mode": "crop",
    "download.decode_threads": 2, "download.network.robot_name": "somebody",
    "clicks.position.max_position": 40, "dedup.same_image_threshold": 0.5, "dedup.corpus_threshold": 0.5,
}  # fmt: skip


class Key(NamedTuple):
    """A retired key of a recipe: its old and its new name in full."""

    kind: type[BaseModel]
    old: str
    new: str
    retired: Retired

    def given(self) -> tuple[Any, Any]:
        """A value other than the default, as the old key takes it and as the new one does."""
        if self.retired.values:
            return list(self.retired.values.items())[-1]
        if self.new in VALUES:
            return VALUES[self.new], VALUES[self.new]
        default = default_of(self.kind, self.new)
        if isinstance(default, bool):
            return not default, not default
        changed = default + 1 if isinstance(default, int) else (default or 1.0) / 2
        return changed, changed


def default_of(kind: type[BaseModel], key: str) -> Any:
    *parents, last = key.split(".")
    for name in parents:
        inner = part_of(kind, name)
        assert inner is not None
        kind = inner
    return kind.model_fields[last].get_default(call_default_factory=True)


def keys_of(kind: type[BaseModel], recipe: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The retired keys of a recipe and its parts, but those that only hold a part."""
    for old, retired in retired_keys(kind).items():
        if part_of(kind, retired.name) is None:
            yield Key(recipe, f"{prefix}{old}", f"{prefix}{retired.name}", retired)
    for name in kind.model_fields:
        if (inner := part_of(kind, name)) is not None:
            yield from keys_of(inner, recipe, f"{prefix}{name}.")


KEYS = [key for kind in KINDS for key in keys_of(kind, kind)]
MOVED = [key for key in KEYS if key.old != key.new]
names = pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.kind.__name__}-{key.old}")
moved = pytest.mark.parametrize("key", MOVED, ids=lambda key: f"{key.kind.__name__}-{key.old}")


def tree(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def base(kind: type[BaseModel], *further: dict[str, Any]) -> dict[str, Any]:
    """A recipe of the kind with what is necessary and further keys, one tree laid into another."""
    values: dict[str, Any] = {}
    needed = {} if kind is ZeroRecipe else {"data": {"folder": "x"}, "training": {"steps": 5}}
    for one in (needed, *further):
        merge(values, one)
    return values


def merge(values: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            merge(values[name], value)
        else:
            values[name] = value


def said_of_loading(key: Key, path: Path, *overrides: str) -> str:
    """Nothing, or why the recipe is refused, without the reason: the key may be of another task or form of data."""
    try:
        load_recipe(key.kind, path, overrides)
    except UsageError as error:
        return str(error).partition(" (")[0]
    return ""


@pytest.fixture(autouse=True)
def any_start_is_an_r2d2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are read as if what they start from were there."""
    monkeypatch.setattr("ccmb.tasks.pretraining.unused_keys.is_chinese_clip", lambda start: False)


def test_every_part_of_the_recipes_is_reached() -> None:
    assert len(MOVED) == len({(key.kind, key.old) for key in MOVED})
    assert {"training.batch", "objectives.fgr.start", "training.best.lower"} <= {key.old for key in KEYS}
    assert {"download.form.side"} & {key.old for key in KEYS} == set()  # its part was renamed too
    assert "download.resize.side" in {key.old for key in KEYS}


@names
def test_an_old_name_is_no_key_and_the_new_one_is(key: Key) -> None:
    kind = key.kind
    for name in key.new.split(".")[:-1]:
        inner = part_of(kind, name)
        assert inner is not None
        kind = inner
    old, new = key.old.split(".")[-1], key.new.split(".")[-1]
    assert new in kind.model_fields
    assert old == new or old not in kind.model_fields
    before, now = key.given()
    assert before != now or old != new


@names
def test_python_reads_it_by_either_name(key: Key) -> None:
    before, now = key.given()
    by_old = check_recipe(key.kind, base(key.kind, tree(key.old, before)), "old.yaml")
    by_new = check_recipe(key.kind, base(key.kind, tree(key.new, now)), "new.yaml")
    assert by_old == by_new
    assert by_old.model_fields_set == by_new.model_fields_set
    if key in MOVED:
        assert by_new != check_recipe(key.kind, base(key.kind), "plain.yaml")


@moved
def test_a_file_reads_it_and_says_so_once(key: Key, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, now = key.given()
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(yaml.safe_dump(base(key.kind, tree(key.old, before))))
    new.write_text(yaml.safe_dump(base(key.kind, tree(key.new, now))))
    loaded = load_recipe(key.kind, old, settled=False)
    assert capfd.readouterr().err == ""  # a file that an older version saved
    assert loaded == load_recipe(key.kind, new, settled=False)
    assert said_of_loading(key, old) in ("", f"{old}: '{key.new}' would do nothing")
    assert capfd.readouterr().err == f"ccmb: old.yaml: {key.old} is now {key.new}\n"
    saved = tmp_path / "saved.yaml"
    save_recipe(loaded, saved)
    again, renamed = renamed_values(key.kind, yaml.safe_load(saved.read_text()))
    assert (again, renamed) == (yaml.safe_load(saved.read_text()), [])


@moved
def test_an_override_reads_it_and_says_so_once(key: Key, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(base(key.kind, tree(key.new, key.given()[1]))))  # gives way to the override
    before = yaml.safe_dump(key.given()[0]).splitlines()[0]
    now = yaml.safe_dump(key.given()[1]).splitlines()[0]
    by_new = load_recipe(key.kind, path, [f"{key.new}={now}"], settled=False)
    assert load_recipe(key.kind, path, [f"{key.old}={before}"], settled=False) == by_new
    override = f"override '{key.new}={now}'"
    assert said_of_loading(key, path, f"{key.old}={before}") in ("", f"{override}: '{key.new}' would do nothing")
    assert capfd.readouterr().err == f"ccmb: overrides: {key.old} is now {key.new}\n"


@moved
def test_both_names_at_once_are_refused(key: Key, tmp_path: Path) -> None:
    before, now = key.given()
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(base(key.kind, tree(key.old, before), tree(key.new, now))))
    words = f"'{key.old}' is an old name of '{key.new}', and both are given; leave '{key.old}' out"
    with pytest.raises(UsageError) as error:
        load_recipe(key.kind, path)
    assert str(error.value) == f"{path}: {words}"
    path.write_text(yaml.safe_dump(base(key.kind)))
    override = f"{key.old}={yaml.safe_dump(before).splitlines()[0]}"
    with pytest.raises(UsageError) as error:
        load_recipe(key.kind, path, [override, f"{key.new}={yaml.safe_dump(now).splitlines()[0]}"])
    assert str(error.value) == f"override '{override}': {words}"


def test_parts_that_were_renamed_take_what_is_in_them_along(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "corpus.yaml"
    path.write_text("copies: {distance: 6, merge_texts: false}\ndownload: {form: {side: 64}}\n")
    recipe = load_recipe(ZeroRecipe, path, ["copies.colour=9", "download.form.keep_metadata=true"])
    assert recipe.image_dedup.model_dump() == {
        "max_hamming_distance": 6, "max_color_difference": 9, "merge_texts": False,
    }  # fmt: skip
    assert (recipe.download.resize.image_size, recipe.download.resize.keep_metadata) == (64, True)
    file, overrides = capfd.readouterr().err.splitlines()
    assert file.startswith("ccmb: corpus.yaml: copies is now image_dedup, ")
    assert overrides == (
        "ccmb: overrides: copies.colour is now image_dedup.max_color_difference, "
        "download.form.keep_metadata is now download.resize.keep_metadata"
    )


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("{figure: gcpr, lower: off}", BestRecipe(metric="gcpr", mode="max")),
        ("{figure: val_auc}", BestRecipe(metric="val_auc", mode="max")),
        ("{metric: val_auc, lower: true}", BestRecipe(metric="val_auc", mode="min")),
        ("gcpr", BestRecipe(metric="gcpr", mode="min")),
    ],
)
def test_an_override_of_a_whole_part_may_hold_old_names(text: str, best: BestRecipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(base(PretrainRecipe)))
    assert load_recipe(PretrainRecipe, path, [f"training.best={text}"]).training.best == best
    assert TrainingRecipe.model_validate({"steps": 5, "best": yaml.safe_load(text)}).best == best


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.bacth=8", "unknown key 'training.bacth' (did you mean 'batch_size'?)"),
        ("training.best.figur=a", "unknown key 'training.best.figur' (did you mean 'metric'?)"),
        ("optimizer.stair=3", "unknown key 'optimizer.stair' (did you mean 'lr_decay_stages'?)"),
        ("objectives.fgr.strat=0.1", "unknown key 'objectives.fgr.strat' (did you mean 'start_at'?)"),
        ("training.batch=x", "'training.batch_size' = 'x'"),
        ("training.batch=[", "override 'training.batch_size=[': the value is not valid YAML"),
        ("training.best.lower=maybe", "'training.best.mode' = 'maybe': input should be 'min' or 'max'"),
        ("data.lanes=2", "'data.streams' would do nothing"),
    ],
)
def test_messages_speak_of_the_names_of_today(override: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(base(PretrainRecipe)))
    with pytest.raises(UsageError) as error:
        load_recipe(PretrainRecipe, path, [override])
    assert words in str(error.value)


SAVED = Path(__file__).parent / "saved_recipes"


@pytest.mark.parametrize(
    ("name", "kind"), [("pretraining", PretrainRecipe), ("finetuning", FinetuneRecipe), ("corpus", ZeroRecipe)]
)
def test_what_the_version_before_saved_is_what_this_one_saves(
    name: str, kind: type[BaseModel], capfd: pytest.CaptureFixture[str]
) -> None:
    before, now = SAVED / f"{name}-before.yaml", SAVED / f"{name}-now.yaml"
    values, renamed = renamed_values(kind, yaml.safe_load(before.read_text(encoding="utf-8")))
    assert values == yaml.safe_load(now.read_text(encoding="utf-8"))
    assert len(renamed) > 25
    assert load_recipe(kind, before, settled=False) == load_recipe(kind, now, settled=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_have_the_names_of_today(path: Path) -> None:
    kind = {"corpus": ZeroRecipe, "finetuning": FinetuneRecipe}.get(path.parent.name, PretrainRecipe)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert renamed_values(kind, values) == (values, [])
