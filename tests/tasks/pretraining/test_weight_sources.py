"""The sources of a recipe's weights: in the model and the card of a run, and in every fine-tuning of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.core.config.given_keys import settle
from ccmb.core.config.recipe_files import check_recipe
from ccmb.core.errors import UsageError
from ccmb.data.sample import Sample
from ccmb.r2d2.folders.source_card import HEADING
from ccmb.r2d2.loading import load_model
from ccmb.tasks.pretraining.model import build_model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import save_model
from ccmb.tasks.registry import finetuner_of
from tests.helpers.runs import command_line, tiny_corpus, tiny_recipe
from tests.helpers.sources import SMALL, save_chinese_clip, save_clip, save_text_tower
from tests.helpers.tiny import TEXTS, tiny_model, tiny_processor
from tests.helpers.tuning import recipe_of, save_pairs, tuned

SOURCES = [
    {"part": "image_tower", "name": "eye", "license": "Apache-2.0", "sha256": "0" * 64},
    {"part": "text_tower", "name": "somebody/words", "license": "mit", "revision": "1" * 40},
]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    model = tiny_model()
    model.config.sources = [dict(source) for source in SOURCES]
    save_model(tmp_path / "start", model, tiny_processor())
    return tmp_path / "start"


def licences(**model: Any) -> list[str]:
    """The licences of the sources of a recipe's network."""
    values = {"data": {"folder": "x"}, "training": {"steps": 1}, "model": SMALL | model}
    recipe = check_recipe(PretrainRecipe, values, "small.yaml")
    return [
        source["license"]
        for source in build_model(recipe.model, recipe.objectives, [Sample("a.jpg", TEXTS)])[0].config.sources
    ]


def test_a_run_from_two_towers_says_so_in_config_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    towers = save_clip(tmp_path / "eye"), save_text_tower(tmp_path / "words", "roberta")
    keys = f"model.vision={towers[0]}", f"model.text={towers[1]}", "model.max_text_tokens=24"
    keys += "model.licenses.image=Apache-2.0", "model.licenses.text=apache-2.0"
    arguments = "pretrain", *tiny_recipe(tiny_corpus(tmp_path / "corpus")), *keys, "--out", tmp_path / "run"
    outcome = command_line(monkeypatch, capfd)(*arguments)
    assert outcome.code == 0, outcome.err
    sources = load_model(tmp_path / "run")[0].config.sources
    assert [(entry["name"], entry["license"]) for entry in sources] == [("eye", "Apache-2.0"), ("words", "apache-2.0")]
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "\nlicense: apache-2.0\n---\n" in card
    assert f"{HEADING}\n" in card
    assert "| started from | eye and words |" in card
    assert str(tmp_path) not in card


def test_licences_are_stated_by_part(tmp_path: Path, start: Path) -> None:
    vision, text = save_clip(tmp_path / "clip"), save_text_tower(tmp_path / "bert")
    chinese_clip = save_chinese_clip(tmp_path / "cn-clip")
    assert licences(vision=str(vision), text=str(text), licenses={"text": "MIT"}) == ["unknown", "MIT"]
    from_clip = {"init_from": str(chinese_clip), "embed_dim": 12}
    assert licences(**from_clip, licenses={"model": "MIT"}) == ["MIT"]
    from_r2d2 = {"init_from": str(start), "cross_layers": 2}
    assert licences(**from_r2d2, licenses={"image": "ISC"}) == ["ISC", "mit"]
    with pytest.raises(UsageError, match=r"model\.licenses\.model=MIT would do nothing"):
        licences(**from_r2d2, licenses={"model": "MIT"})


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("image", {"text": {"model_type": "bert"}, "vision": {"model_type": "clip_vision_model"}}),
        ("text", {"preset": "r2d2-tiny"}),
        ("model", {"vision": "a/b", "text": "c/d"}),
        ("text", {"init_from": "CHINESE_CLIP"}),
    ],
)
def test_a_licence_that_would_do_nothing_is_refused_by_name(key: str, model: dict[str, Any], tmp_path: Path) -> None:
    if "init_from" in model:
        model = {"init_from": str(save_chinese_clip(tmp_path / "cn-clip"))}
    values = {"data": {"folder": "x"}, "training": {"steps": 1}, "model": model | {"licenses": {key: "MIT"}}}
    recipe = check_recipe(PretrainRecipe, values, "small.yaml")
    with pytest.raises(UsageError, match=rf"'model\.licenses\.{key}' would do nothing"):
        settle(recipe, Path("small.yaml"), [])


def test_the_licence_in_a_file_gives_way_to_an_override_of_its_tower() -> None:
    model = {"vision": "a/b", "text": "c/d", "licenses": {"image": "MIT", "text": "ISC"}}
    recipe = check_recipe(
        PretrainRecipe, {"data": {"folder": "x"}, "training": {"steps": 1}, "model": model}, "small.yaml"
    )
    settled = settle(recipe, Path("small.yaml"), ["model.vision=e/f"])
    assert settled.model.licenses.model_dump() == {"image": None, "text": "ISC", "model": None}


def test_a_licence_is_an_identifier() -> None:
    with pytest.raises(UsageError, match=r"model\.licenses\.image"):
        licences(vision="a/b", text="c/d", licenses={"image": "see | the\nfile"})


def test_fine_tuning_carries_the_sources_on(start: Path, tmp_path: Path) -> None:
    data = save_pairs(tmp_path / "data")
    tuned(start, data, tmp_path / "run", training__steps=1, validation__every=1)
    assert load_model(tmp_path / "run")[0].config.sources == SOURCES
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "license: other\nlicense_name: apache-2.0-and-mit\nbase_model:\n- somebody/words\n---" in card
    assert "| started from | start |" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("task", ["matching", "captioning", "generation"])
def test_the_network_of_every_task_carries_them_on(task: str, start: Path, tmp_path: Path) -> None:
    if task == "generation":
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    changes = {"validation.split": "", "validation__every": None} if task == "generation" else {}
    recipe = recipe_of(start, tmp_path, task, **changes)
    model, processor = finetuner_of(recipe.task).network(recipe)
    save_model(tmp_path / "tuned", model, processor)
    assert load_model(tmp_path / "tuned")[0].config.sources == SOURCES
