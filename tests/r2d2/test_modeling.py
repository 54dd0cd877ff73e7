"""R2D2Model: what it says, what changes nothing, and that it saves and loads whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import SIZE, tiny_batch, tiny_config, tiny_model, tiny_processor

pytestmark = PROOFS

STEM = {
    "model_type": "stem_vision", "image_size": SIZE, "patch_size": 8, "stem_channels": [8, 16], "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def encode(model: R2D2Model, count: int = 3) -> tuple[TowerOutput, TowerOutput]:
    batch = tiny_batch(count)
    with torch.no_grad():
        return model.encode_image(batch.pixel_values), model.encode_text(batch.input_ids, batch.attention_mask)


def test_embeddings_are_unit_vectors_from_the_first_token() -> None:
    model = tiny_model()
    for output, projection in zip(encode(model), (model.image_projection, model.text_projection), strict=True):
        assert_same(output.embed.norm(dim=1), torch.ones(3))
        projected = projection(output.states[:, 0])
        assert_same(output.embed, projected / projected.norm(dim=1, keepdim=True))


def test_match_score_is_the_mean_of_the_two_match_probabilities() -> None:
    images, texts = encode(model := tiny_model())
    output = model.rank(images, texts, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2]))
    for n in range(4):
        chances = [logits[n].detach().double().exp() for logits in (output.logits_text_image, output.logits_image_text)]
        assert float(output.score[n].detach()) == same(float(sum(c[1] / c.sum() for c in chances)) / 2)


def test_each_side_has_its_cross_encoder_and_head() -> None:
    images, texts = encode(model := tiny_model())
    index = torch.tensor([1, 2]), torch.tensor([0, 2])
    output = model.rank(images, texts, *index)
    picked_images, picked_texts, pairs = images[index[0]], texts[index[1]], [torch.arange(2)] * 2
    text_side = picked_texts.states, picked_texts.mask
    text_first = model.text_image_encoder(*text_side, picked_images.states, None, *pairs).first
    image_first = model.image_text_encoder(model.image_to_cross(picked_images.states), None, *text_side, *pairs).first
    assert_same(output.logits_text_image, model.text_image_match(text_first))
    assert_same(output.logits_image_text, model.image_text_match(image_first))


def test_padding_changes_no_score() -> None:
    model, batch = tiny_model(), tiny_batch(3)
    images, texts = encode(model)
    longer = torch.nn.functional.pad(batch.input_ids, (0, 4)), torch.nn.functional.pad(batch.attention_mask, (0, 4))
    with torch.no_grad():
        padded = model.encode_text(*longer)
    assert_same(padded.embed, texts.embed)
    index = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])
    assert_same(model.rank(images, padded, *index).score, model.rank(images, texts, *index).score)


def test_joining_batches_of_different_lengths_changes_no_score() -> None:
    model, batch = tiny_model(), tiny_batch(2)
    images, texts = encode(model, 2)
    with torch.no_grad():
        single = []
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            single.append(model.encode_text(ids[None, : mask.sum()], mask[None, : mask.sum()]))
    assert single[0].states.shape[1] != single[1].states.shape[1]
    joined = TowerOutput.cat(single)
    index = torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])
    assert_same(model.rank(images, joined, *index).score, model.rank(images, texts, *index).score)


def test_forward_scores_every_text_with_every_image() -> None:
    model, batch = tiny_model(), tiny_batch(3)
    images, texts = encode(model)
    scores = model(batch.pixel_values[:2], batch.input_ids, batch.attention_mask, rank=True).scores
    assert scores.shape == (3, 2)
    for text in range(3):
        for image in range(2):
            alone = model.rank(images, texts, torch.tensor([image]), torch.tensor([text])).score[0]
            assert_same(scores[text, image], alone)


def test_prd2_scores_by_cosine_and_refuses_to_rank() -> None:
    model, batch = tiny_model(cross_layers=0), tiny_batch(3)
    images, texts = encode(model)
    scores = model(batch.pixel_values, batch.input_ids, batch.attention_mask, rank=True).scores
    assert_same(scores, texts.embed @ images.embed.T)
    assert not model.can_rank
    assert not any("cross" in name or "match" in name or "mlm" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="PRD2"):
        model.rank(images, texts, torch.tensor([0]), torch.tensor([0]))


def test_masked_language_head_shares_the_word_embeddings() -> None:
    model = tiny_model()
    states = torch.randn(3, 32)
    head, words = model.mlm_head, model.text_tower.get_input_embeddings().weight
    hidden = torch.nn.functional.layer_norm(
        torch.nn.functional.gelu(states @ head.dense.weight.T + head.dense.bias), (32,), eps=1e-12
    )
    assert_same(model.mlm_logits(states), hidden @ words.T + head.bias)


@pytest.mark.parametrize("kind", [R2D2Model, AutoModel])
@pytest.mark.parametrize(
    "changes", [{}, {"cross_layers": 0}, {"vision_config": STEM}, {"mlm_head": False}, {"match_heads": False}]
)
def test_saving_and_loading_keeps_every_bit(kind: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    model, batch = tiny_model(**changes), tiny_batch(2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # none stays at what a new network begins with
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert isinstance(loaded, R2D2Model)
    for field in ("embed_dim", "cross_layers", "cross_heads", "cross_ffn", "mlm_head", "max_text_tokens"):
        assert getattr(loaded.config, field) == getattr(model.config, field)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    inputs = batch.pixel_values, batch.input_ids, batch.attention_mask
    # Not bit for bit: weights lie elsewhere in memory.
    assert_same(loaded.eval()(*inputs, rank=True).scores, model(*inputs, rank=True).scores)


def test_a_new_network_starts_at_its_configured_temperature_and_differs_by_seed() -> None:
    first, again, other = tiny_model(initial_temperature=0.2), tiny_model(initial_temperature=0.2), tiny_model(seed=1)
    assert float(first.temperature.detach()) == same(0.2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.image_projection.weight, other.image_projection.weight)


def test_default_shape_is_the_papers() -> None:
    config = R2D2Config()
    assert (config.embed_dim, config.cross_layers, config.max_text_tokens) == (768, 6, 64)
    assert (config.text_config.vocab_size, config.cross_heads, config.cross_ffn) == (21128, 12, 3072)
    assert (config.initial_temperature, config.temperature_min, config.temperature_max) == (0.07, 0.001, 0.5)


@pytest.mark.parametrize("tower", [{"model_type": "clip_vison_model"}, {"hidden_size": 32}])
def test_an_unknown_tower_is_one_clear_error(tower: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the vision tower's model_type is"):
        tiny_config(vision_config=tower)


def test_an_unknown_ranking_rule_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match="ranking_rule is 'product'; give one of sum, log_odds"):
        tiny_config(ranking_rule="product")


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, "hot", True, None])
def test_a_temperature_that_is_not_above_zero_is_one_clear_error(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"match_temperature is .*; give a number above 0"):
        tiny_config(match_temperature=wrong)


def whole_folder(path: Path) -> Path:
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def test_a_model_folder_or_its_run_folder_loads(tmp_path: Path) -> None:
    whole_folder(tmp_path / "run" / "model")
    for name in (tmp_path / "run" / "model", tmp_path / "run"):
        model, processor = load_model(name)
        assert not model.training
        assert processor.image_size == SIZE


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
)
def test_a_missing_or_damaged_file_is_named(file: str, tmp_path: Path) -> None:
    folder = whole_folder(tmp_path)
    (folder / file).write_bytes(b'{"nothing": 1}'[:9])
    with pytest.raises(CcmbError, match=f"{file}|the model cannot be loaded"):
        load_model(folder)
    (folder / file).unlink()
    with pytest.raises(CcmbError, match=f"{file}: missing"):
        load_model(folder)


def test_a_processor_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = whole_folder(tmp_path)
    tiny_processor(2 * SIZE).save_pretrained(folder)
    with pytest.raises(CcmbError, match=rf"preprocessor_config\.json: size {2 * SIZE}, but .* {SIZE} pixels"):
        load_model(folder)


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    folder = whole_folder(tmp_path)
    tiny_model(cross_layers=1).save_pretrained(folder)
    tiny_config(cross_layers=2).save_pretrained(folder)
    with pytest.raises(CcmbError, match="lacks"):
        load_model(folder)


def test_no_folder_and_an_unfinished_run_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match="no such model folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(CcmbError, match="has not finished"):
        load_model(tmp_path)
