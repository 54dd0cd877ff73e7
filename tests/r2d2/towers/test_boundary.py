"""A tower that is taken up above its lowest layers gives what the whole tower gives, whatever kind it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.boundary import Boundary, find_boundary, lower_states, taken_up
from ccmb.r2d2.towers.stillness import freeze, layers_of
from ccmb.r2d2.towers.stored import image_boundary, image_of_rows, image_rows, text_boundary, text_of_rows, text_rows
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.sources import BACKBONES, MAP, STAGES, TEXTUAL, WINDOWS, made, made_backbone
from tests.helpers.tiny import tiny_batch, tiny_model

pytestmark = PROOFS

KINDS = sorted({*BACKBONES} - {"clip", "siglip"})  # whose image towers are clip_vision_model and siglip_vision_model
FIXED_SIZE = 32  # of transformers; convolutional networks leave one cell of it
TEXT = {"input_ids": torch.arange(12).view(2, 6) + 5, "attention_mask": torch.tensor([[1] * 6, [1] * 3 + [0] * 3])}
ONE_TEXT = {"input_ids": torch.arange(4)[None] + 9, "attention_mask": torch.ones(1, 4, dtype=torch.long)}


def size_of(tower: PreTrainedModel) -> int:
    return FIXED_SIZE if getattr(tower.config, "image_size", 64) == FIXED_SIZE else 64


def boundary_of(tower: PreTrainedModel, count: int) -> Boundary | None:
    pixels = torch.randn(3, 3, size_of(tower), size_of(tower), generator=torch.Generator().manual_seed(1))
    one, several, blank = ({"pixel_values": values} for values in (pixels[:1], pixels, torch.zeros_like(pixels)))
    with torch.inference_mode():
        return find_boundary(tower, count, one=one, several=several, stand_in=blank)


def outputs(output: Any) -> list[Tensor]:
    both = output.last_hidden_state, getattr(output, "pooler_output", None)
    return [value for value in both if value is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_image_towers_of_all_kinds_are_taken_up_after_any_layer(kind: str) -> None:
    tower = made_backbone(kind)
    pixels = torch.randn(2, 3, size_of(tower), size_of(tower), generator=torch.Generator().manual_seed(0))
    layers = len(layers_of(tower))
    for count in {1, (layers + 1) // 2, layers}:
        boundary = boundary_of(tower, count)
        assert boundary is not None, f"{count} of {layers} layers"
        with torch.no_grad():
            whole = outputs(tower(pixel_values=pixels))
            states = lower_states(tower, boundary, lambda: tower(pixel_values=pixels))
            with taken_up(tower, boundary, states):
                resumed = outputs(tower(pixel_values=torch.zeros_like(pixels)))
            assert_same(resumed, whole)
            with taken_up(tower, boundary, states.flip(0)):  # the states count, not the pixels
                others = outputs(tower(pixel_values=pixels))
            assert not torch.allclose(others[0], whole[0])
            assert_same(outputs(tower(pixel_values=pixels)), whole)  # all is as it was before


@pytest.mark.parametrize("kind", TEXTUAL)
def test_text_towers_are_taken_up_with_their_masks(kind: str) -> None:
    tower: Any = made(TEXTUAL[kind])
    tower = getattr(tower, "bert", tower)
    with torch.inference_mode():
        boundary = find_boundary(tower, 1, one=ONE_TEXT, several=TEXT, stand_in=TEXT)
        assert boundary is not None
        whole = tower(**TEXT).last_hidden_state
        states = lower_states(tower, boundary, lambda: tower(**TEXT))
        with taken_up(tower, boundary, states):
            assert_same(tower(**TEXT).last_hidden_state, whole)


class Crossing(nn.Module):
    """Layers of which the highest also reads what the lowest gave, which its boundary does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, pixel_values: Tensor) -> Any:
        first = self.layers[0](pixel_values)
        return type("Output", (), {"last_hidden_state": self.layers[2](self.layers[1](first)) + first})


class Returning(Crossing):
    """Layers of which the lowest is called again after a higher one."""

    def forward(self, pixel_values: Tensor) -> Any:
        states = self.layers[0](self.layers[1](self.layers[0](pixel_values)))
        return type("Output", (), {"last_hidden_state": self.layers[2](states)})


@pytest.mark.parametrize(("kind", "count"), [(Crossing, 2), (Returning, 1)])
def test_a_tower_that_cannot_be_taken_up_is_found_out(kind: type[nn.Module], count: int) -> None:
    values = torch.randn(3, 4)
    one, several, blank = ({"pixel_values": pixels} for pixels in (values[:1], values, torch.zeros_like(values)))
    assert find_boundary(kind(), count, one=one, several=several, stand_in=blank) is None


def test_a_layer_keeps_a_forward_of_its_own() -> None:
    tower = made_backbone("resnet")
    boundary = boundary_of(tower, 1)
    assert boundary is not None
    [stage] = layers_of(tower)[0]
    own = stage.forward
    stage.__dict__["forward"] = own
    with taken_up(tower, boundary, torch.zeros(boundary.shape)):
        assert stage.forward is not own
    assert stage.__dict__["forward"] is own


def network(**changes: Any) -> R2D2Model:
    """Two layers in each tower."""
    config = tiny_model().config
    towers = {
        f"{name}_config": getattr(config, f"{name}_config").to_dict() | {"num_hidden_layers": 2}
        for name in ("vision", "text")
    }
    return tiny_model(**(towers | changes))


NETWORKS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "mean": {"text_pooling": "mean", "image_pooling": "mean"},
    "pooled by the tower": {"image_pooling": "tower"},
    "feature map": {"vision_config": {"model_type": "resnet", "embedding_size": 8} | STAGES | MAP},
    "windows": {"vision_config": {"model_type": "swin"} | WINDOWS},
}


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("count", [None, 1])
@pytest.mark.parametrize("kind", NETWORKS)
def test_stored_rows_stand_for_images_and_texts(kind: str, count: int | None, packs: bool) -> None:
    model, batch = network(**NETWORKS[kind]), tiny_batch(5)
    model.pack_texts = packs
    size = model.config.image_size
    pixels = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids, mask = batch.input_ids, batch.attention_mask
    images, texts = model.encode_image(pixels), model.encode_text(ids, mask)
    if count is not None:
        for name in ("image", "text"):
            freeze(model.get_submodule(f"{name}_tower"), count, name)
        model.image_boundary, model.text_boundary = image_boundary(model, count, size), text_boundary(model, count)
        assert model.image_boundary is not None
        assert model.text_boundary is not None
    with torch.no_grad():
        of_images, of_texts = image_rows(model, pixels, tokens=True), text_rows(model, ids, mask, tokens=True)
    shown = image_of_rows(model, of_images, size)
    read = text_of_rows(model, ids, mask, of_texts, model.packing(mask))
    for stored_output, output in ((shown, images), (read, texts)):
        assert_same(stored_output.embed, output.embed)
        assert_same(stored_output.pooled, output.pooled)
    assert_same(shown.states, images.states)
    real = mask.bool()
    assert_same(read.states[real], texts.states[real])
    # What is above the boundary is trained through it.
    (shown.embed.sum() + read.embed.sum()).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {"image_projection.weight", "text_projection.weight"} <= trained
    assert any(name.startswith("text_tower") for name in trained) == (count is not None)


def test_of_towers_whose_tokens_nobody_reads_one_row_is_stored() -> None:
    model, batch = network(text_pooling="mean"), tiny_batch(5)
    with torch.no_grad():
        of_images = image_rows(model, batch.pixel_values, tokens=False)
        of_texts = text_rows(model, batch.input_ids, batch.attention_mask, tokens=False)
    assert of_images.shape == of_texts.shape == (5, 1, 32)
    shown = image_of_rows(model, of_images, model.config.image_size)
    read = text_of_rows(model, batch.input_ids, batch.attention_mask, of_texts, None)
    assert_same(shown.embed, model.encode_image(batch.pixel_values).embed)
    assert_same(read.embed, model.encode_text(batch.input_ids, batch.attention_mask).embed)
    assert read.mask is not None
    assert read.mask.shape == (5, 1)


def test_compiled_layers_are_taken_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = made_backbone("resnet")
    boundary = boundary_of(tower, 1)
    assert boundary is not None
    [stage] = layers_of(tower)[0]
    monkeypatch.setattr(stage, "_compiled_call_impl", lambda *_: pytest.fail("computed"))
    with torch.no_grad(), taken_up(tower, boundary, torch.zeros(boundary.shape)):
        tower(pixel_values=torch.zeros(1, 3, 64, 64))
    assert stage._compiled_call_impl is not None
