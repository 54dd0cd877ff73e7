"""Other sizes for an existing network: interpolated positions, and everything else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from ccmb.core.config.recipe_files import check_recipe
from ccmb.core.errors import UsageError
from ccmb.data.sample import Sample
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.resized_positions import resized, resized_grid, resized_line
from ccmb.r2d2.resizing import resize
from ccmb.tasks.captioning.finetune import CaptioningFinetuner
from ccmb.tasks.pretraining.model import build_model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.runs import command_line
from tests.helpers.sources import SMALL, save_clip, save_text_tower
from tests.helpers.tiny import SIZE, TEXTS, tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import recipe_of, save_pairs, save_start, tuned

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = {"image_size": SIZE, "patch_size": 8}
# With the number of positions that stand before the patches'.
IMAGE_TOWERS: dict[str, tuple[dict[str, Any], str, int]] = {
    "clip": ({"model_type": "clip_vision_model"}, "embeddings.position_embedding.weight", 1),
    "siglip": ({"model_type": "siglip_vision_model"}, "embeddings.position_embedding.weight", 0),
    "vit": ({"model_type": "vit"}, "embeddings.position_embeddings", 1),
    "dinov2": ({"model_type": "dinov2"}, "embeddings.position_embeddings", 1),
    "registers": ({"model_type": "dinov2_with_registers"}, "embeddings.position_embeddings", 1),
    "stem": ({"model_type": "stem_vision", "stem_channels": [8, 16]}, "places.weight", 0),
}
TEXT_TOWERS = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "ernie": 0}


def with_image_tower(name: str) -> R2D2Model:
    return tiny_model(vision_config=TOWER | IMAGE | IMAGE_TOWERS[name][0])


def text_tower(kind: str) -> dict[str, Any]:
    words = {"vocab_size": len(tiny_processor().tokenizer), "pad_token_id": 1 if "roberta" in kind else 0}
    return TOWER | words | {"model_type": kind, "max_position_embeddings": 24 + TEXT_TOWERS[kind]}


def test_a_grid_is_interpolated_as_pillow_does() -> None:
    table_PW = torch.randn(1 + 7 * 7, 3, generator=torch.Generator().manual_seed(0))
    for side in (10, 4, 21):
        resized_PW = resized_grid(table_PW, 7, side)
        assert torch.equal(resized_PW[0], table_PW[0])
        for channel in range(3):
            image = Image.fromarray(table_PW[1:, channel].reshape(7, 7).numpy())
            expected = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
            np.testing.assert_allclose(resized_PW[1:, channel].reshape(side, side), expected, atol=1e-5)


def test_a_ramp_over_the_grid_stays_a_ramp() -> None:
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    table_PW = torch.stack([2 + rows.flatten(), 3 * columns.flatten(), torch.full((196,), 5.0)], 1)
    grid = resized_grid(table_PW, 14, 21).view(21, 21, 3)
    places = (torch.arange(21) + 0.5) * 14 / 21 - 0.5  # where the new patches' middles lie among the old ones
    inner = slice(3, 18)  # at the border the last position is repeated
    torch.testing.assert_close(grid[inner, inner, 0], (2 + places[inner, None]).expand(15, 15))
    torch.testing.assert_close(grid[inner, inner, 1], (3 * places[None, inner]).expand(15, 15))
    torch.testing.assert_close(grid[:, :, 2], torch.full((21, 21), 5.0))


def test_a_ramp_over_the_text_stays_a_ramp() -> None:
    line = resized_line(torch.arange(10.0)[:, None] * torch.tensor([1.0, -2.0]), 25)
    places = ((torch.arange(25) + 0.5) * 10 / 25 - 0.5).clamp(0, 9)
    torch.testing.assert_close(line, places[:, None] * torch.tensor([1.0, -2.0]))


def test_equal_sizes_change_nothing() -> None:
    model = tiny_model()
    assert resized(model, SIZE, 24) is model
    for same in (resized_grid(torch.randn(17, 5), 4, 4), resized_line(torch.randn(9, 5), 9)):
        assert same.shape in ((17, 5), (9, 5))
    table = torch.randn(17, 5)
    torch.testing.assert_close(resized_grid(table, 4, 4), table, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", IMAGE_TOWERS)
def test_all_but_the_positions_of_the_image_tower_stays_as_it_was(name: str) -> None:
    model = with_image_tower(name)
    larger = resized(model, SIZE + 16)
    _, table, extra = IMAGE_TOWERS[name]
    before, after = model.state_dict(), larger.state_dict()
    assert before.keys() == after.keys()
    changed = {
        key for key in before if before[key].shape != after[key].shape or not torch.equal(before[key], after[key])
    }
    expected = {f"image_tower.{table}"} | (
        {"image_tower.embeddings.position_embedding.weight"} if name == "stem" else set()
    )
    assert changed == expected
    old, new = (state[f"image_tower.{table}"].flatten(0, -2) for state in (before, after))
    assert torch.equal(new[:extra], old[:extra])
    torch.testing.assert_close(new, resized_grid(old, 4, 6))
    pixels = torch.randn(2, 3, SIZE + 16, SIZE + 16)
    with torch.no_grad():
        images = larger.encode_image(pixels)
        texts = larger.encode_text(**tiny_processor().texts(TEXTS[:2]))
        assert larger.score_pairs(images, texts).shape == (2, 2)
    assert images.states.shape[1] >= 36


def test_an_even_image_looks_the_same_at_every_size_where_all_positions_are_alike() -> None:
    model = with_image_tower("siglip").double()
    with torch.no_grad():
        table = model.image_tower.embeddings.position_embedding.weight
        table.copy_(table[:1].clone().expand_as(table))
        small = model.encode_image(torch.full((1, 3, SIZE, SIZE), 0.3, dtype=torch.float64)).embed
        for size in (SIZE // 2, 2 * SIZE):
            large = resized(model, size).encode_image(torch.full((1, 3, size, size), 0.3, dtype=torch.float64)).embed
            torch.testing.assert_close(large, small, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_longer_texts_get_interpolated_positions(kind: str) -> None:
    model = tiny_model(text_config=text_tower(kind))
    longer, processor = resize(model, tiny_processor(), max_text_tokens=40)
    reserved, name = TEXT_TOWERS[kind], "text_tower.embeddings.position_embeddings.weight"
    old, new = model.state_dict()[name], longer.state_dict()[name]
    assert new.shape == (40 + reserved, 32)
    assert torch.equal(new[:reserved], old[:reserved])
    torch.testing.assert_close(new[reserved:], resized_line(old[reserved:], 40))
    assert (longer.config.max_text_tokens, processor.max_text_tokens) == (40, 40)
    inputs = processor(text=["船" * 60, "猫"], truncation=True)
    assert inputs["input_ids"].shape == (2, 40)
    with torch.no_grad():
        assert longer.encode_text(**inputs).embed.isfinite().all()


def test_texts_that_have_positions_already_and_shorter_ones_leave_all_weights() -> None:
    text = text_tower("bert") | {"max_position_embeddings": 60}
    model = tiny_model(text_config=text)
    for length in (60, 12):
        other, processor = resize(model, tiny_processor(), max_text_tokens=length)
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
        assert (other.config.max_text_tokens, processor.max_text_tokens) == (length, length)
        inputs = processor(text=TEXTS[0], max_length=12, truncation=True)
        with torch.no_grad():
            assert torch.equal(other.encode_text(**inputs).embed, model.encode_text(**inputs).embed)


@pytest.mark.parametrize("kind", [R2D2Model, AutoModel])
def test_a_folder_opens_at_other_sizes_and_what_is_saved_opens_again(kind: Any, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "small")
    tiny_processor().save_pretrained(tmp_path / "small")
    model = kind.from_pretrained(tmp_path / "small", image_size=64, max_text_tokens=40).eval()
    processor = (R2D2Processor if kind is R2D2Model else AutoProcessor).from_pretrained(
        tmp_path / "small", image_size=64, max_text_tokens=40
    )
    expected = resized(tiny_model(), 64, 40).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    model.save_pretrained(tmp_path / "large")
    processor.save_pretrained(tmp_path / "large")
    opened, reader = load_model(tmp_path / "large")
    assert (opened.config.image_size, opened.config.max_text_tokens) == (64, 40)
    assert (reader.image_size, reader.max_text_tokens, reader.tokenizer.model_max_length) == (64, 40, 40)
    inputs = reader(tiny_images(2), ["船" * 38, TEXTS[1]])
    with torch.no_grad():
        assert torch.equal(opened(**inputs, rank=True).scores, model(**inputs, rank=True).scores)


def test_a_network_of_another_precision_and_frozen_parts_stay_so() -> None:
    model = tiny_model().to(torch.bfloat16).train()
    model.image_tower.requires_grad_(False)
    larger = resized(model, 64)
    assert larger.dtype == torch.bfloat16
    assert larger.training
    assert [p.requires_grad for p in larger.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({"image_size": 40}, "image_size is 40; give a multiple of .* 16 pixels, such as 32 or 48"),
        ({"image_size": 8}, "image_size is 8; .* such as 16 or 32"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": "64"}, "image_size is '64'"),
        ({"max_text_tokens": 2}, "max_text_tokens is 2"),
        ({"max_text_tokens": True}, "max_text_tokens is True"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(sizes: dict[str, Any], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        resized(tiny_model(), **sizes)


def test_a_tower_that_cannot_be_resized_is_refused_by_name() -> None:
    beit = TOWER | IMAGE | {"model_type": "beit", "use_relative_position_bias": True}
    with pytest.raises(UsageError, match="image_size cannot be changed: the image tower, beit, has positions in"):
        resized(tiny_model(vision_config=beit), 64)


def save_small(folder: Path) -> Path:
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_convert_writes_a_folder_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, small, large = command_line(monkeypatch, capfd), save_small(tmp_path / "small"), tmp_path / "large"
    done = command("convert", small, large, "--image-size", 64, "--max-text-tokens", 40)
    assert (done.code, "images of 64 pixels, texts of up to 40 tokens" in done.out) == (0, True)
    model, processor = load_model(large)
    expected = resized(tiny_model(), 64, 40).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert (processor.image_size, processor.max_text_tokens) == (64, 40)
    again = command("convert", small, large, "--image-size", 64)
    assert (again.code, "exists already" in again.err) == (1, True)
    official = command("convert", small, tmp_path / "a.safetensors", "--image-size", 64)
    assert (
        official.code,
        "--image-size is from a model folder to a new one; convert without it first" in official.err,
    ) == (2, True)


def built(**model: Any) -> tuple[R2D2Model, R2D2Processor]:
    values = {"data": {"folder": "x"}, "training": {"steps": 1}, "model": model}
    recipe = check_recipe(PretrainRecipe, values, "small.yaml")
    return build_model(recipe.model, recipe.objectives, [Sample("a.jpg", TEXTS)])


def test_a_recipe_that_starts_from_an_r2d2_applies_both_sizes(tmp_path: Path) -> None:
    small = str(save_small(tmp_path))
    model, processor = built(init_from=small, image_size=64, max_text_tokens=40)
    expected = resized(tiny_model(), 64, 40).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert (processor.image_size, processor.max_text_tokens) == (64, 40)
    model, processor = built(init_from=small)  # what is not said stays as it is
    assert (model.config.image_size, model.config.max_text_tokens, processor.max_text_tokens) == (SIZE, 24, 24)
    with pytest.raises(UsageError, match="image_size is 40; give a multiple"):
        built(init_from=small, image_size=40)


def test_a_recipe_gives_new_networks_and_other_starts_their_size_too(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    text = save_text_tower(tmp_path / "text", "bert")
    size = 2 * built(vision=str(clip), text=str(text), **SMALL)[0].config.image_size
    model, processor = built(vision=str(clip), text=str(text), image_size=size, **SMALL)
    assert model.config.image_size == processor.image_size == size
    model, processor = built(preset="r2d2-tiny", image_size=32, vocab_size=60)
    assert (model.config.image_size, processor.image_size, processor.max_text_tokens) == (32, 32, 64)
    with pytest.raises(UsageError, match=r"model\.image_size=64, but model\.vision\.image_size=32; give one"):
        built(vision=TOWER | IMAGE | {"model_type": "vit"}, text=TOWER | {"model_type": "bert"}, image_size=64)


def test_fine_tuning_at_another_size_trains_and_saves_at_it(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "data")
    sizes = {"model__image_size": 48, "model__max_text_tokens": 32, "training__steps": 2, "validation__every": 2}
    tuned(start, data, tmp_path / "run", **sizes)
    model, processor = load_model(tmp_path / "run")
    assert (model.config.image_size, processor.image_size, processor.max_text_tokens) == (48, 48, 32)


@pytest.mark.parametrize("key", ["image_size", "max_text_tokens"])
def test_a_captioner_to_start_from_refuses_another_size_by_name(key: str, tmp_path: Path) -> None:
    captioner, processor = R2D2Captioner.from_r2d2(tiny_model(), tiny_processor()), tiny_processor()
    captioner.save_pretrained(tmp_path / "captioner")
    processor.save_pretrained(tmp_path / "captioner")
    recipe = recipe_of(tmp_path / "captioner", tmp_path, "captioning", **{f"model__{key}": 64})
    with pytest.raises(UsageError, match=rf"model\.{key}: .*captioner is a captioner, which keeps its sizes"):
        CaptioningFinetuner().network(recipe)
    with pytest.raises(UsageError, match="an R2D2Captioner keeps its sizes"):
        resized(captioner, 64)
