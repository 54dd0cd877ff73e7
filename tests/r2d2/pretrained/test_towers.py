"""Networks from pre-trained towers: small random ones on disk, whose weights must arrive unchanged."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.images.transforms import CLIP_MEAN
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.pretrained.towers import from_towers
from tests.helpers.exact import assert_same
from tests.helpers.sources import (
    EYE,
    SMALL,
    TEXT,
    TEXTUAL,
    VISIONS,
    assert_arrived,
    assert_works_and_keeps_its_outputs,
    made,
    save_clip,
    save_text_tower,
    saved,
)
from tests.helpers.tiny import TEXTS, tiny_images, tiny_processor

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_tower(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_clip(tmp_path / "clip")


@pytest.mark.parametrize("kind", VISIONS)
def test_an_image_tower_arrives_unchanged(kind: str, bert: Path, tmp_path: Path) -> None:
    source = saved(VISIONS[kind], tmp_path / "vision")
    model, processor = from_towers(source, bert, **SMALL)
    assert_arrived(model.image_tower, source, "vision_model." if kind in ("clip", "siglip") else "")
    pixels, original = processor.images(tiny_images(2)).double(), made(VISIONS[kind]).double()
    tower = copy.deepcopy(model.image_tower).double()
    with torch.no_grad():
        states = getattr(original, "vision_model", original)(pixels).last_hidden_state
        assert_same(tower(pixels).last_hidden_state, states)
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")
    assert model.config.image_pooling == ("tower" if "siglip" in kind else "first")


@pytest.mark.parametrize("kind", TEXTUAL)
def test_a_text_tower_arrives_unchanged_with_its_tokenizer(kind: str, clip: Path, tmp_path: Path) -> None:
    source = save_text_tower(tmp_path / "text", kind)
    model, processor = from_towers(clip, source, **SMALL)
    assert_arrived(model.text_tower, source, "bert." if kind == "bert" else "")
    inputs, original = processor.texts(TEXTS[:2]), made(TEXTUAL[kind]).double()
    tower = copy.deepcopy(model.text_tower).double()
    with torch.no_grad():
        states = getattr(original, "bert", original)(**inputs).last_hidden_state
        assert_same(tower(**inputs).last_hidden_state, states)
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")
    words = processor.texts(TEXTS[:1])["input_ids"][0].tolist()
    assert processor.tokenizer.unk_token_id not in words
    if kind == "bert":
        assert len(words) == len(TEXTS[0]) + 2


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip", "dinov2", "vit", "beit"])
def test_a_towers_own_pooling_arrives_too(kind: str, bert: Path, tmp_path: Path) -> None:
    source = saved(VISIONS[kind], tmp_path / "vision")
    model, processor = from_towers(source, bert, image_pooling="tower", **SMALL)
    assert_arrived(model.image_tower, source, "vision_model." if kind == "siglip" else "")
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")


def test_files_of_older_forms_arrive_too(bert: Path, tmp_path: Path) -> None:
    """CLIP's image half under `vision_model.`, BERT's norms with gamma and beta, weights in a `.bin` file."""
    vision = saved(VISIONS["clip_vision_model"], tmp_path / "vision")
    text = shutil.copytree(bert, tmp_path / "text")
    tensors, words = load_file(vision / "model.safetensors"), load_file(text / "model.safetensors")
    named = {f"vision_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, vision / "model.safetensors", metadata={"format": "pt"})
    (text / "model.safetensors").unlink()
    old = {re.sub("LayerNorm.weight$", "LayerNorm.gamma", name): tensor for name, tensor in words.items()}
    old = {re.sub("LayerNorm.bias$", "LayerNorm.beta", name): tensor for name, tensor in old.items()}
    torch.save(old, text / "pytorch_model.bin")
    model, expected = from_towers(vision, text, **SMALL)[0], from_towers(vision, bert, **SMALL)[0]
    assert all(torch.equal(model.image_tower.state_dict()[name], tensor) for name, tensor in tensors.items())
    pairs = zip(model.text_tower.state_dict().values(), expected.text_tower.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_half_precision_weights_become_float32_of_the_same_values(bert: Path, tmp_path: Path) -> None:
    source = saved(lambda: VISIONS["vit"]().half(), tmp_path / "vision")
    model, processor = from_towers(source, bert, **SMALL)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    file = load_file(source / "model.safetensors")
    assert torch.equal(model.image_tower.embeddings.cls_token, file["embeddings.cls_token"].float())
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")
    assert load_model(tmp_path / "r2d2")[0].dtype == torch.float32


def test_new_parts_come_from_the_global_generator_by_the_rules_of_a_new_network(clip: Path, bert: Path) -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(from_towers(clip, bert, **SMALL)[0])
    new = [{name: p for name, p in model.named_parameters() if "tower" not in name} for model in models]
    assert all(torch.equal(tensor, new[1][name]) for name, tensor in new[0].items())
    for name, tensor in new[0].items():
        if tensor.dim() == 2:
            assert not torch.equal(tensor, new[2][name])
            assert float(tensor.detach().std()) == pytest.approx(0.02, rel=0.3)
        elif name.endswith("bias"):
            assert not tensor.any()


def test_a_network_may_have_no_cross_encoders(clip: Path, bert: Path) -> None:
    model, _ = from_towers(clip, bert, **SMALL | {"cross_layers": 0})
    assert not any("cross" in name or "match" in name or "mlm" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("kind", "mean"),
    [("clip", CLIP_MEAN), ("siglip", (0.5,) * 3), ("vit", (0.5,) * 3), ("dinov2", (0.485, 0.456, 0.406))],
)
def test_pixel_statistics_are_the_familys_unless_the_source_tells_its_own(
    kind: str, mean: tuple[float, ...], bert: Path, tmp_path: Path
) -> None:
    source = saved(VISIONS[kind], tmp_path / "vision")
    assert from_towers(source, bert, **SMALL)[1].image_mean == mean
    own: dict[str, Any] = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (source / "processor_config.json").write_text(json.dumps({"image_processor": own}))
    assert from_towers(source, bert, **SMALL)[1].image_std == (0.4, 0.5, 0.6)
    (source / "preprocessor_config.json").write_text(json.dumps(own | {"image_std": [0.7, 0.8, 0.9]}))
    processor = from_towers(source, bert, **SMALL)[1]
    assert (processor.image_mean, processor.image_std) == ((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    (source / "preprocessor_config.json").write_text(json.dumps(own | {"image_std": 1}))
    with pytest.raises(CcmbError, match=r"preprocessor_config\.json: needs image_mean and image_std"):
        from_towers(source, bert, **SMALL)


def test_hub_ids_do_as_well_as_folders(clip: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in {"somebody--clip": clip, "somebody--bert": bert}.items():
        repository, commit = tmp_path / "hub" / f"models--{name}", "0" * 40
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model, processor = from_towers("somebody/clip", "somebody/bert", **SMALL)
    assert_arrived(model.image_tower, clip, "vision_model.")
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")


def assert_refused(kind: type[CcmbError], match: str, *sources: str | Path, **config: Any) -> None:
    with pytest.raises(kind, match=match) as error:
        from_towers(*map(str, sources), **SMALL | config)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_a_source_that_is_not_there_is_assert_refused(clip: Path, bert: Path, tmp_path: Path) -> None:
    for name in ("nobody/nothing", str(tmp_path / "nowhere"), "nothing"):
        assert_refused(CcmbError, f"{name}: no such model folder, nor one on the hub", name, bert)
        assert_refused(CcmbError, f"{name}: no such model folder, nor one on the hub", clip, name)
    (tmp_path / "empty").mkdir()
    assert_refused(CcmbError, r"empty/config\.json: not a model's", tmp_path / "empty", bert)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_weights_that_are_missing_or_lack_a_tensor_are_named(tower: str, clip: Path, tmp_path: Path) -> None:
    text = save_text_tower(tmp_path / "text", "roberta")
    source, tensor = (clip, "post_layernorm.bias") if tower == "vision" else (text, "encoder.layer.1.output.dense.bias")
    file = source / "model.safetensors"
    tensors = load_file(file)
    whole = {name: value for name, value in tensors.items() if not name.endswith(tensor)}
    save_file(whole, file, metadata={"format": "pt"})
    assert_refused(CcmbError, f"{source}: the weights lack the tensor {tensor}; ", clip, text)
    save_file({name: value[:-1] for name, value in tensors.items() if value.dim()}, file, metadata={"format": "pt"})
    assert_refused(
        CcmbError, rf"{source}: \S+ is \(31,\) and \d+ more in the weights, but \(32,\) by config", clip, text
    )
    file.write_bytes(b"damaged")
    assert_refused(CcmbError, f"{source}: the weights cannot be loaded", clip, text)
    file.unlink()
    assert_refused(
        CcmbError, rf"{source}: the weights cannot be loaded \(.*no file named model.safetensors", clip, text
    )


def test_a_pooling_layer_is_wanted_only_where_it_is_used(bert: Path, tmp_path: Path) -> None:
    source = saved(lambda: hf.ViTModel(hf.ViTConfig(**EYE), add_pooling_layer=False), tmp_path / "vit")
    from_towers(source, bert, **SMALL)
    assert_refused(CcmbError, "lack the tensor pooler.dense.bias and 1 more", source, bert, image_pooling="tower")


def test_naflex_and_other_kinds_of_models_are_refused(clip: Path, bert: Path, tmp_path: Path) -> None:
    eye = {key: value for key, value in EYE.items() if key != "image_size"}
    hf.Siglip2VisionConfig(**eye).save_pretrained(tmp_path / "naflex")
    assert_refused(UsageError, "naflex: a NaFlex SigLIP 2 .* fixed resolution", tmp_path / "naflex", bert)
    hf.Siglip2Config(vision_config=eye).save_pretrained(tmp_path / "naflex")
    assert_refused(UsageError, "naflex: a NaFlex SigLIP 2 .* fixed resolution", tmp_path / "naflex", bert)
    assert_refused(UsageError, "bert is no image tower; give one such as clip_vision_model", bert, bert)
    assert_refused(UsageError, "clip is no text encoder that R2D2 takes; give one such as bert", clip, clip)


@pytest.mark.parametrize(("kind", "maximum"), [("bert", 64), ("xlm-roberta", 64)])
def test_texts_longer_than_the_positions_are_refused(kind: str, maximum: int, clip: Path, tmp_path: Path) -> None:
    text = save_text_tower(tmp_path / "text", kind)
    assert_refused(
        UsageError, f"max_text_tokens is 65, but .* has positions for {maximum} tokens", clip, text, max_text_tokens=65
    )
    model, processor = from_towers(clip, text, **SMALL | {"max_text_tokens": maximum})
    longest = processor.texts([TEXTS[0] * 9])
    assert longest["input_ids"].shape[1] == maximum
    assert model.encode_text(**longest).embed.isfinite().all()


def test_a_tokenizer_that_is_missing_or_too_large_is_refused(clip: Path, tmp_path: Path) -> None:
    assert_refused(CcmbError, "text: no tokenizer; its files", clip, saved(TEXTUAL["bert"], tmp_path / "text"))
    source = saved(lambda: hf.BertModel(hf.BertConfig(**TEXT | {"vocab_size": 20})), tmp_path / "few")
    tiny_processor().tokenizer.save_pretrained(source)
    assert_refused(CcmbError, "few: the tokenizer has 72 tokens, but the tower only 20", clip, source)


def test_wrong_fields_are_named(clip: Path, bert: Path) -> None:
    assert_refused(
        UsageError, r"cross_layer is no field .* \(did you mean 'cross_layers'\?\)", clip, bert, cross_layer=2
    )
    assert_refused(UsageError, "image_pooling is 'last'", clip, bert, image_pooling="last")
    assert_refused(UsageError, "clip and .*bert.*: not the towers of a network", clip, bert, cross_heads=5)
