"""Adapters on towers of every kind: they begin as nothing, all of them learn, and merged they are ordinary weights."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ccmb.core.errors import UsageError
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.adapters import Adapters, add_adapters, merge_adapters
from ccmb.r2d2.towers.stillness import freeze, layers_of
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.short_training import two_layers
from tests.helpers.sources import BACKBONES, MAP, TEXTUAL, made, made_backbone
from tests.helpers.tiny import tiny_batch

pytestmark = PROOFS

pytest.importorskip("peft")
LINEAR = [
    "clip_vision_model", "siglip_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "beit",
    "convnext", "convnextv2", "swin", "swinv2", "pvt", "pvt_v2", "segformer", "aimv2_vision_model",
]  # fmt: skip
CONVOLUTIONS = {
    "efficientnet": ("expand_conv", "project_conv", "reduce"),
    "resnet": ("convolution",),
    "mobilenet_v1": ("convolution",),
    "poolformer": ("conv1", "conv2"),
}


def fill(module: nn.Module) -> None:
    """Give the adapters weights with which they say something."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)


def check(tower: nn.Module, output: Callable[[], Tensor], adapters: Adapters, name: str) -> None:
    before, names = output().detach(), list(tower.state_dict())
    add_adapters(tower, adapters, name)
    assert_same(output().detach(), before)
    assert all((".lora_" in name) == parameter.requires_grad for name, parameter in tower.named_parameters())
    fill(tower)
    adapted = output()
    assert not torch.allclose(adapted, before)
    adapted.square().sum().backward()
    unused = [key for key, p in tower.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, "a layer computes with its weights, past its adapter"
    merge_adapters(tower)
    assert list(tower.state_dict()) == names
    assert not any("peft" in type(part).__module__ for part in tower.modules())
    assert_same(output().detach(), adapted.detach())


def sees(tower: nn.Module, kind: str) -> Callable[[], Tensor]:
    size = getattr(tower.config, "image_size", None)
    size = size if isinstance(size, int) else MAP["image_size"]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return lambda: tower(pixel_values=pixels).last_hidden_state


@pytest.mark.parametrize("kind", LINEAR)
def test_every_linear_layer_of_an_image_tower_can_be_adapted(kind: str) -> None:
    tower = made_backbone(kind)
    check(tower, sees(tower, kind), Adapters(2, 3.0), "image")


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_can_be_adapted_by_their_names(kind: str) -> None:
    tower = made_backbone(kind)
    targets = CONVOLUTIONS[kind]
    if kind == "mobilenet_v1":  # every second one is grouped
        with pytest.raises(UsageError, match=r"layer\.0\.convolution of the image tower is a grouped convolution"):
            add_adapters(tower, Adapters(2, 3.0, targets=targets), "image")
        return
    check(tower, sees(tower, kind), Adapters(2, 3.0, targets=targets), "image")


@pytest.mark.parametrize("kind", TEXTUAL)
@pytest.mark.parametrize("targets", ["all-linear", ("query", "value", "Wqkv")])
def test_text_towers_can_be_adapted(kind: str, targets: str | tuple[str, ...]) -> None:
    tower = made(TEXTUAL[kind])
    tower = getattr(tower, tower.base_model_prefix, tower)
    ids = torch.arange(5, 17).view(2, 6)
    check(tower, lambda: tower(input_ids=ids).last_hidden_state, Adapters(2, 3.0, targets=targets), "text")


def adapted_model(dropout: float = 0.0) -> R2D2Model:
    model = two_layers()
    for name in ("image", "text"):
        add_adapters(model.get_submodule(f"{name}_tower"), Adapters(2, 4.0, dropout), name)
    fill(model)
    return model


def test_packed_texts_are_those_with_padding() -> None:
    model, batch = adapted_model(), tiny_batch(6)
    packed = model.encode_text(batch.input_ids, batch.attention_mask)
    assert model.packing(batch.attention_mask) is not None
    assert not torch.allclose(packed.embed, two_layers().encode_text(batch.input_ids, batch.attention_mask).embed)
    model.pack_texts = False
    padded = model.encode_text(batch.input_ids, batch.attention_mask)
    real = batch.attention_mask.bool()
    assert_same(packed.embed, padded.embed)
    assert_same(packed.states[real], padded.states[real])


def test_there_is_dropout_in_training_alone() -> None:
    batch = tiny_batch(2)
    for dropout, same in ((0.0, True), (0.5, False)):
        model = adapted_model(dropout).train()
        one, other = (model.encode_image(batch.pixel_values).embed for _ in range(2))
        assert torch.equal(one, other) == same
        model.eval()
        one, other = (model.encode_image(batch.pixel_values).embed for _ in range(2))
        assert torch.equal(one, other)


def test_lowest_layers_that_are_frozen_get_none() -> None:
    tower = two_layers().text_tower
    freeze(tower, 1, "text")
    add_adapters(tower, Adapters(2, 3.0), "text", frozen=1)
    low, high = ([name for part in layer for name, _ in part.named_parameters()] for layer in layers_of(tower))
    assert not any("lora" in name for name in low)
    assert sum("lora_A" in name for name in high) == 6  # three of the heads, and three that are dense
    assert not any("lora" in name for name, _ in tower.embeddings.named_parameters())


def test_what_has_nothing_to_adapt_is_refused_with_the_fix() -> None:
    tower = made_backbone("resnet")
    with pytest.raises(UsageError) as error:
        add_adapters(tower, Adapters(2, 3.0), "image")
    assert str(error.value) == (
        "model.lora.targets=all-linear: the layers of the image tower have none; name some of convolution"
    )
    with pytest.raises(UsageError, match=r"targets=queri: .* \(did you mean 'query'\?\); name some of query, key"):
        add_adapters(two_layers().text_tower, Adapters(2, 3.0, targets=["queri"]), "text")


def test_without_peft_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"model\.lora needs peft; install it with pip install 'ccmb\[lora\]'"):
        add_adapters(two_layers().text_tower, Adapters(2, 3.0), "text")


def test_every_backbone_of_the_tests_is_one_of_these() -> None:
    assert set(LINEAR) | set(CONVOLUTIONS) < set(BACKBONES)
