"""Training with adapters: what moves, that it goes on exactly on one process and two, and what is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.towers.adapters import merge_adapters
from ccmb.tasks.pretraining.lora import add_lora, lora_in_words
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.training.checkpoints import load_checkpoint
from ccmb.training.model_recipe import ModelRecipe
from ccmb.training.model_selection import read_best
from ccmb.training.parallel import full_state_dict
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.processes import run_in_processes
from tests.helpers.short_training import recipe_with, state_of, train, two_layers
from tests.helpers.tiny import tiny_batch
from tests.helpers.tuning import save_pairs, save_start, tuned

pytestmark = PROOFS

pytest.importorskip("peft")
LORA = {"lora": {"rank": 2, "alpha": 4}}


def start_of() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in two_layers().state_dict().items()}


def test_adapters_and_what_is_no_tower_learn_and_all_goes_on_exactly(tmp_path: Path) -> None:
    recipe = recipe_with(
        model={"lora": {"rank": 2, "alpha": 4, "dropout": 0.3}, "freeze": {"text": 1}},
        optimizer={"layer_decay": 0.5, "image_lr": 0.02, "muon_lr_scale": 2.0},
        training={"model_ema_decay": 0.8},
    )
    whole = train(tmp_path / "whole", recipe)
    train(tmp_path / "parts", recipe, stop=3)
    parts = train(tmp_path / "parts", recipe)
    after, again = state_of(whole), state_of(parts)
    assert after.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in after.items())
    assert whole.average is not None
    assert parts.average is not None
    averages = parts.average.state_dict()
    assert all(torch.equal(value, averages[name]) for name, value in whole.average.state_dict().items())
    for name, value in start_of().items():
        module, _, kind = name.rpartition(".")
        own = after.get(f"model.{name}", after.get(f"model.{module}.base_layer.{kind}"))
        assert own is not None
        assert torch.equal(own, value) == ("tower" in name), name
    adapters = [name for name in after if name.startswith("model.") and ".lora_B." in name]
    assert len(adapters) == 2 * 6 + 1 * 6  # six linear modules a layer; the lowest of the text tower is frozen
    assert all(after[name].any() for name in adapters)
    assert all(after[name.replace("model.", "teacher.", 1)].any() for name in adapters)  # whose average moves


@pytest.mark.parametrize("way", [{"gradient_checkpointing": True}, {"grad_cache_chunk": 2}, {"pack_texts": False}])
def test_other_ways_of_computing_give_the_same(tmp_path: Path, way: dict[str, Any]) -> None:
    plain = state_of(train(tmp_path / "plain", recipe_with(2, model=LORA)))
    assert_same(state_of(train(tmp_path / "other", recipe_with(2, model=LORA, training=way))), plain)


def with_strategies(folder: Path) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for strategy in ("ddp", "fsdp"):
        trainer = train(folder / strategy, recipe_with(2, model=LORA, training={"parallel": strategy}))
        raw = state_of(trainer)
        model = trainer.task.module.model
        merge_adapters(model)
        results[strategy] = {"raw": raw, "merged": full_state_dict(dict(model.state_dict()))}
    return results


def test_two_processes_are_one_and_merge_as_one(tmp_path: Path) -> None:
    one = with_strategies(tmp_path / "one")["ddp"]
    assert set(one["merged"]) == set(start_of())
    for rank in run_in_processes(2, with_strategies, tmp_path, tmp_path / "two"):
        for result in rank.values():
            assert_same(result, one)


def test_merged_the_model_computes_what_it_did_with_adapters(tmp_path: Path) -> None:
    model, batch = two_layers(), tiny_batch(4)
    train(tmp_path, recipe_with(model=LORA), model)
    model.eval()

    def outputs() -> list[Tensor]:
        with torch.no_grad():
            images = model.encode_image(batch.pixel_values)
            texts = model.encode_text(batch.input_ids, batch.attention_mask)
            return [images.embed, texts.embed, model.score_pairs(images, texts)]

    adapted = outputs()
    merge_adapters(model)
    assert_same(outputs(), adapted)
    fresh = two_layers()
    fresh.load_state_dict(model.state_dict())


def test_the_model_folder_of_a_run_is_an_ordinary_one(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "data")
    tuned(start, data, tmp_path / "run", model__freeze__image="all", model__lora="{rank: 2, alpha: 6}")
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "run" / "model"))
    assert before.keys() == after.keys()
    step = (read_best(tmp_path / "run" / "checkpoints") or {})["step"]
    state = load_checkpoint(tmp_path / "run" / "checkpoints", step)["module"]
    adapted = 0
    for name, value in before.items():
        prefix = f"model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.default.weight" in state:
            a, b = (state[f"{prefix}.lora_{which}.default.weight"] for which in "AB")
            assert_same(after[name], value + 3 * b @ a)
            adapted += 1
        elif "tower" in name:
            assert torch.equal(after[name], value), name
    assert adapted == 6
    load_model(tmp_path / "run")
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| adapters | LoRA of rank 2, alpha 6, on all-linear of the text tower, merged |" in card
    assert not list((tmp_path / "run" / "model").glob("adapter*"))


def test_by_default_towers_that_are_not_frozen_are_adapted() -> None:
    assert ModelRecipe.model_validate(LORA).adapted() == ["image", "text"]
    assert ModelRecipe.model_validate(LORA | {"freeze": {"image": "all", "text": 3}}).adapted() == ["text"]
    assert ModelRecipe().adapted() == []
    words = lora_in_words(
        ModelRecipe.model_validate(
            {"freeze_image_tower": True, "lora": {"rank": 4, "dropout": 0.1, "targets": ["query", "value"]}}
        )
    )
    assert words == "LoRA of rank 4, alpha 16, dropout 0.1, on query, value of the text tower, merged"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.lora={towers: [image]}", "model.freeze.image=all"], "the image tower is frozen as a whole"),
        (["model.lora={}", "model.freeze={image: all, text: all}"], "adapters would do nothing"),
        (["model.lora={}", "model.train_batch_norm=on"], "give one of both"),
        (["model.lora={rank: 0}"], "model.lora.rank"),
        (["model.lora={targets: []}"], "model.lora"),
        (["model.lora={towers: [cross]}"], "model.lora.towers"),
    ],
)
def test_adapters_that_would_do_nothing_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(CcmbError) as error:
        load_recipe(PretrainRecipe, find_recipe("flickr8k-cn"), ["model.init_from=x", *overrides])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_new_network_has_nothing_to_adapt() -> None:
    with pytest.raises(UsageError, match=r"model\.lora: a new network has no trained weights to adapt; give model"):
        add_lora(two_layers(), ModelRecipe.model_validate(LORA))
