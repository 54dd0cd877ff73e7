"""Which learning rate each weight has: of towers of their own, and layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ccmb.core.errors import UsageError
from ccmb.objectives.config import Objectives
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import freeze, layers_of
from ccmb.tasks.pretraining.parameter_groups import CROSS_PARTS, cross_start, parameter_groups
from ccmb.training.optimizers import lr_factor, make_optimizers, set_learning_rates
from ccmb.training.recipe import OptimizerRecipe
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.processes import run_in_processes
from tests.helpers.short_training import recipe_with, state_of, train, two_layers
from tests.helpers.sources import made_backbone

pytestmark = PROOFS

RATES = {"lr": 0.1, "cross_lr": 0.3, "image_lr": 0.02, "text_lr": 0.01, "layer_decay": 0.5}


def peaks(model: R2D2Model, **options: float) -> dict[str, float]:
    """The peak of each weight, by its name."""
    groups = parameter_groups(model, OptimizerRecipe(**options))
    lr_of = {id(parameter): group.lr for group in groups for parameter in group.parameters}
    assert len(lr_of) == sum(len(group.parameters) for group in groups) == len(list(model.parameters()))
    return {name: lr_of[id(parameter)] for name, parameter in model.named_parameters()}


def test_by_default_there_are_two_groups_as_ever() -> None:
    model = two_layers()
    towers, cross = parameter_groups(model, OptimizerRecipe(lr=0.1, cross_lr=0.3), 0.25)
    assert (towers.lr, towers.start, cross.lr, cross.start) == (0.1, 0.0, 0.3, 0.25)
    named = list(model.named_parameters())  # in this order they stand in the optimiser's state of old checkpoints
    assert list(map(id, towers.parameters)) == [id(p) for name, p in named if not name.startswith(CROSS_PARTS)]
    assert list(map(id, cross.parameters)) == [id(p) for name, p in named if name.startswith(CROSS_PARTS)]


def test_towers_have_rates_of_their_own_that_fall_from_layer_to_layer() -> None:
    lr_of = peaks(two_layers(), **RATES)
    tower = {"image_tower": ("encoder.layers.", 0.02), "text_tower": ("encoder.layer.", 0.01)}
    for name, lr in lr_of.items():
        part, _, rest = name.partition(".")
        if part in tower:
            layer, peak = tower[part]
            above = 0 if not rest.startswith((layer, "embeddings", "pre_")) else 2
            if rest.startswith(layer):
                above = 1 - int(rest.removeprefix(layer)[0])
            assert lr == same(peak * 0.5**above), name
        else:
            assert lr == (0.3 if part in CROSS_PARTS else 0.1), name
    assert {lr_of["temperature"], lr_of["text_projection.bias"], lr_of["image_projection.weight"]} == {0.1}
    assert lr_of["image_tower.post_layernorm.weight"] == 0.02  # after the layers


def test_a_tower_without_a_rate_of_its_own_has_that_of_the_projections() -> None:
    lr_of = peaks(two_layers(), lr=0.1, image_lr=0.02)
    assert {lr for name, lr in lr_of.items() if name.startswith("image_tower")} == {0.02}
    assert {lr for name, lr in lr_of.items() if not name.startswith("image_tower")} == {0.1}
    decayed = peaks(two_layers(), lr=0.1, layer_decay=0.5)
    assert {lr for name, lr in decayed.items() if "tower" in name} == {0.1, 0.05, 0.025}


@pytest.mark.parametrize("kind", ["vit", "efficientnet", "resnet", "swin", "pvt", "mobilenet_v2"])
def test_every_kind_of_backbone_has_its_layers_from_the_top_down(kind: str) -> None:
    model = two_layers()
    model.image_tower = made_backbone(kind)
    lr_of = {
        id(parameter): group.lr
        for group in parameter_groups(model, OptimizerRecipe(lr=1.0, layer_decay=0.5))
        for parameter in group.parameters
    }
    layers = layers_of(model.image_tower)
    within: set[int] = set()
    for below_top, layer in enumerate(reversed(layers)):
        ids = {id(parameter) for part in layer for parameter in part.parameters()}
        assert {lr_of[one] for one in ids} == {0.5**below_top}
        within |= ids
    outside = {lr_of[id(p)] for p in model.image_tower.parameters() if id(p) not in within}
    assert outside <= {1.0, 0.5 ** len(layers)}
    first = next(model.image_tower.parameters())
    assert lr_of[id(first)] == 0.5 ** (len(layers) if id(first) not in within else len(layers) - 1)


@pytest.mark.parametrize("muon", [None, 2.0])
def test_rates_go_with_muon_biases_warm_up_and_frozen_layers(muon: float | None) -> None:
    model = two_layers()
    freeze(model.text_tower, 1, "text")
    options = OptimizerRecipe(**RATES, muon_lr_scale=muon, bias_lr_scale=3.0, warmup_steps=4)
    optimizers = make_optimizers(parameter_groups(model, options, 0.5), options, model)
    set_learning_rates(optimizers, 2, 10, options)
    lr_of = {id(p): group["lr"] for one in optimizers for group in one.param_groups for p in group["params"]}
    named, factor = dict(model.named_parameters()), lr_factor(2, 10, 0.0, options)
    assert 0 < factor < 1
    layer = "image_tower.encoder.layers.0.mlp.fc1"
    assert lr_of[id(named[f"{layer}.weight"])] == same(0.02 * 0.5 * factor * (muon or 1))
    assert lr_of[id(named[f"{layer}.bias"])] == same(0.02 * 0.5 * factor * 3)
    assert lr_of[id(named["image_tower.embeddings.patch_embedding.weight"])] == same(0.02 * 0.25 * factor * (muon or 1))
    assert lr_of[id(named["text_tower.encoder.layer.1.output.dense.weight"])] == same(0.01 * factor * (muon or 1))
    assert lr_of[id(named["text_image_match.weight"])] == 0.0  # has not begun
    assert {id(p) for p in named.values() if p.requires_grad} == set(lr_of)
    assert not any(id(p) in lr_of for name, p in named.items() if name.startswith("text_tower.encoder.layer.0"))
    assert optimizers[0].param_groups[0]["peak"] in (0.1, same(0.3))  # what the log calls lr is the projections'


def test_cross_encoders_begin_with_the_first_objective_that_needs_them() -> None:
    assert cross_start(Objectives.model_validate({"fgr": {"start_at": 0.5}, "mlm": {"start_at": 0.25}})) == 0.25
    assert cross_start(Objectives.model_validate({"fgr": {"start_at": 0.5}, "mlm": {"weight": 0}})) == 0.5
    assert cross_start(Objectives.model_validate({"fgr": {"weight": 0}, "mlm": {"weight": 0}})) == 0.0


def test_a_tower_without_layers_has_no_layer_decay() -> None:
    model = two_layers()
    model.image_tower = nn.Linear(2, 2)  # type: ignore[assignment]
    parameter_groups(model, OptimizerRecipe(image_lr=0.1))
    with pytest.raises(UsageError, match=r"optimizer\.layer_decay=0\.5: the image tower has no list of layers; give"):
        parameter_groups(model, OptimizerRecipe(layer_decay=0.5))
    model.image_tower.requires_grad_(False)
    parameter_groups(model, OptimizerRecipe(layer_decay=0.5))


def test_a_run_moves_low_layers_less_and_goes_on_exactly(tmp_path: Path) -> None:
    recipe = recipe_with(optimizer={"layer_decay": 1e-3, "image_lr": 0.02, "muon_lr_scale": 2.0})
    before = two_layers().state_dict()
    whole = train(tmp_path / "whole", recipe)
    train(tmp_path / "parts", recipe, stop=3)
    assert_same_weights(state_of(train(tmp_path / "parts", recipe)), after := state_of(whole))
    moved = {name: float((after[f"model.{name}"] - value).norm()) for name, value in before.items()}
    low, high = (f"image_tower.encoder.layers.{layer}.mlp.fc1.weight" for layer in (0, 1))
    assert 0 < moved["image_tower.embeddings.patch_embedding.weight"] < moved[low] / 10 < moved[high] / 100


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def with_strategies(folder: Path) -> dict[str, dict[str, Any]]:
    rates = {"layer_decay": 0.5, "image_lr": 0.02, "text_lr": 0.005, "muon_lr_scale": 2.0}
    return {
        strategy: state_of(train(folder / strategy, recipe_with(2, optimizer=rates, training={"parallel": strategy})))
        for strategy in ("ddp", "fsdp")
    }


def test_two_processes_are_one(tmp_path: Path) -> None:
    one = with_strategies(tmp_path / "one")["ddp"]
    for rank in run_in_processes(2, with_strategies, tmp_path, tmp_path / "two"):
        for result in rank.values():
            assert_same(result, one)
