"""Networks from pre-trained towers: small random ones on disk, whose weights must arrive unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccmb.data.transforms import CLIP_MEAN
from ccmb.errors import CcmbError, UsageError
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers import from_chinese_clip, from_towers
from ccmb.samples import Sample
from ccmb.tasks.building import build_model
from ccmb.tasks.pretraining import PretrainRecipe
from ccmb.training.recipe import check_recipe
from runs import command_line, tiny_corpus, tiny_recipe
from tiny import SIZE, TEXTS, tiny_model, tiny_pictures, tiny_processor

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
EYE = TOWER | {"image_size": SIZE, "patch_size": 16}
SMALL = {"embed_dim": 16, "cross_layers": 1, "max_text_tokens": 24}
WORDS = 80  # no fewer than either tokenizer has

Build = Callable[[], hf.PreTrainedModel]
VISIONS: dict[str, Build] = {
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(vision_config=EYE, text_config=TOWER | {"vocab_size": 9})),
    "clip_vision_model": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**EYE)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(vision_config=EYE, text_config=TOWER | {"vocab_size": 9})),
    "siglip_vision_model": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**EYE)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**EYE)),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**EYE)),
    "dinov3_vit": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**EYE, num_register_tokens=2)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**EYE)),
    "beit": lambda: hf.BeitModel(hf.BeitConfig(**EYE)),
}
TEXT = TOWER | {"vocab_size": WORDS, "pad_token_id": 0}
TEXTUAL: dict[str, Build] = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT, max_position_embeddings=24)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT, max_position_embeddings=25)),
    "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**TEXT, max_position_embeddings=25)),
    "ernie": lambda: hf.ErnieModel(hf.ErnieConfig(**TEXT, max_position_embeddings=24)),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def saved(build: Build, folder: Path) -> Path:
    """A model's folder with weights that no initialisation would give."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model = build()
        for tensor in model.parameters():
            tensor.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def saved_text(kind: str, folder: Path) -> Path:
    """A text model's folder with a tokenizer: BERT's form for bert, any fast one for the others."""
    saved(TEXTUAL[kind], folder)
    if kind == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(TEXTS)))]
        (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    else:
        tiny_processor().tokenizer.save_pretrained(folder)
    return folder


def assert_arrived(tower: hf.PreTrainedModel, folder: Path, prefix: str = "") -> None:
    """All of the tower is in the folder's file bit for bit, and all of the file in the tower but pooling layers."""
    tower.save_pretrained(folder / "again")
    file, again = load_file(folder / "model.safetensors"), load_file(folder / "again" / "model.safetensors")
    assert len(again) == len(tower.state_dict())
    assert all(torch.equal(tensor, file[prefix + name]) for name, tensor in again.items())
    rest = {name.removeprefix(prefix) for name in file if name.startswith(prefix)} - set(again)
    assert all(name.startswith(("pooler.", "cls.")) for name in rest)


def outputs(model: R2D2Model, processor: R2D2Processor) -> list[Tensor]:
    inputs = processor(tiny_pictures(2), TEXTS[:2])
    with torch.no_grad():
        images = model.encode_image(inputs["pixel_values"])
        texts = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        score = model.rank(images, texts, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])).score
    return [images.embed, texts.embed, score]


def assert_works_and_keeps_its_outputs(model: R2D2Model, processor: R2D2Processor, folder: Path) -> None:
    assert not model.training
    before = outputs(model, processor)
    for embed in before[:2]:
        torch.testing.assert_close(embed.norm(dim=1), torch.ones(2))
        assert not torch.allclose(embed[0], embed[1])
    assert ((before[2] > 0) & (before[2] < 1)).all()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert all(torch.equal(*pair) for pair in zip(before, outputs(*load_model(folder)), strict=True))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_text("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return saved(VISIONS["clip"], tmp_path / "clip")


@pytest.mark.parametrize("kind", VISIONS)
def test_an_image_tower_arrives_unchanged(kind: str, bert: Path, tmp_path: Path) -> None:
    source = saved(VISIONS[kind], tmp_path / "vision")
    model, processor = from_towers(source, bert, **SMALL)
    assert_arrived(model.image_tower, source, "vision_model." if kind in ("clip", "siglip") else "")
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")
    assert model.config.image_pooling == ("tower" if "siglip" in kind else "first")


@pytest.mark.parametrize("kind", TEXTUAL)
def test_a_text_tower_arrives_unchanged_with_its_tokenizer(kind: str, clip: Path, tmp_path: Path) -> None:
    source = saved_text(kind, tmp_path / "text")
    model, processor = from_towers(clip, source, **SMALL)
    assert_arrived(model.text_tower, source, "bert." if kind == "bert" else "")
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


def one_line(kind: type[CcmbError], match: str, *sources: str | Path, **config: Any) -> None:
    with pytest.raises(kind, match=match) as error:
        from_towers(*map(str, sources), **SMALL | config)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_a_source_that_is_not_there_is_one_line(clip: Path, bert: Path, tmp_path: Path) -> None:
    for name in ("nobody/nothing", str(tmp_path / "nowhere"), "nothing"):
        one_line(CcmbError, f"{name}: no such model folder, nor one on the hub", name, bert)
        one_line(CcmbError, f"{name}: no such model folder, nor one on the hub", clip, name)
    (tmp_path / "empty").mkdir()
    one_line(CcmbError, r"empty/config\.json: not a model's", tmp_path / "empty", bert)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_weights_that_are_missing_or_lack_a_tensor_are_named(tower: str, clip: Path, tmp_path: Path) -> None:
    text = saved_text("roberta", tmp_path / "text")
    source, tensor = (clip, "post_layernorm.bias") if tower == "vision" else (text, "encoder.layer.1.output.dense.bias")
    file = source / "model.safetensors"
    tensors = load_file(file)
    whole = {name: value for name, value in tensors.items() if not name.endswith(tensor)}
    save_file(whole, file, metadata={"format": "pt"})
    one_line(CcmbError, f"{source}: the weights lack the tensor {tensor}; ", clip, text)
    save_file({name: value[:-1] for name, value in tensors.items() if value.dim()}, file, metadata={"format": "pt"})
    one_line(CcmbError, f"{source}: the weights cannot be loaded", clip, text)
    file.write_bytes(b"damaged")
    one_line(CcmbError, f"{source}: the weights cannot be loaded", clip, text)
    file.unlink()
    one_line(CcmbError, rf"{source}: the weights cannot be loaded \(.*no file named model.safetensors", clip, text)


def test_a_pooling_layer_is_wanted_only_where_it_is_used(bert: Path, tmp_path: Path) -> None:
    source = saved(lambda: hf.ViTModel(hf.ViTConfig(**EYE), add_pooling_layer=False), tmp_path / "vit")
    from_towers(source, bert, **SMALL)
    one_line(CcmbError, "lack the tensor pooler.dense.bias and 1 more", source, bert, image_pooling="tower")


def test_naflex_and_other_kinds_of_models_are_refused(clip: Path, bert: Path, tmp_path: Path) -> None:
    eye = {key: value for key, value in EYE.items() if key != "image_size"}
    hf.Siglip2VisionConfig(**eye).save_pretrained(tmp_path / "naflex")
    one_line(UsageError, "naflex: a NaFlex SigLIP 2 .* fixed resolution", tmp_path / "naflex", bert)
    hf.Siglip2Config(vision_config=eye).save_pretrained(tmp_path / "naflex")
    one_line(UsageError, "naflex: a NaFlex SigLIP 2 .* fixed resolution", tmp_path / "naflex", bert)
    one_line(UsageError, "bert is no image tower; give one of clip_vision_model", bert, bert)
    one_line(UsageError, "clip is no BERT-like text encoder", clip, clip)


@pytest.mark.parametrize(("kind", "most"), [("bert", 24), ("xlm-roberta", 24)])
def test_texts_longer_than_the_positions_are_refused(kind: str, most: int, clip: Path, tmp_path: Path) -> None:
    text = saved_text(kind, tmp_path / "text")
    one_line(
        UsageError, f"max_text_tokens is 25, but .* has positions for {most} tokens", clip, text, max_text_tokens=25
    )
    model, processor = from_towers(clip, text, **SMALL | {"max_text_tokens": most})
    longest = processor.texts([TEXTS[0] * 9])
    assert longest["input_ids"].shape[1] == most
    assert model.encode_text(**longest).embed.isfinite().all()


def test_a_tokenizer_that_is_missing_or_too_large_is_refused(clip: Path, tmp_path: Path) -> None:
    one_line(CcmbError, "text: no tokenizer; its files", clip, saved(TEXTUAL["bert"], tmp_path / "text"))
    source = saved(lambda: hf.BertModel(hf.BertConfig(**TEXT | {"vocab_size": 20})), tmp_path / "few")
    tiny_processor().tokenizer.save_pretrained(source)
    one_line(CcmbError, "few: the tokenizer has 72 tokens, but the tower only 20", clip, source)


def test_wrong_fields_are_named(clip: Path, bert: Path) -> None:
    one_line(UsageError, r"cross_layer is no field .* \(did you mean 'cross_layers'\?\)", clip, bert, cross_layer=2)
    one_line(UsageError, "image_pooling is 'last'", clip, bert, image_pooling="last")
    one_line(UsageError, "clip and .*bert.*: not the towers of a network", clip, bert, cross_heads=5)


@pytest.fixture
def chinese_clip(tmp_path: Path) -> Path:
    text = {key: value for key, value in TEXT.items() if key != "pad_token_id"} | {"max_position_embeddings": 24}
    config = hf.ChineseCLIPConfig(vision_config=EYE, text_config=text, projection_dim=12)
    folder = saved(lambda: hf.ChineseCLIPModel(config), tmp_path / "chinese_clip")
    tiny_processor().tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("cross_layers", [0, 1])
def test_a_chinese_clip_starts_with_its_own_embeddings(cross_layers: int, chinese_clip: Path, tmp_path: Path) -> None:
    model, processor = from_chinese_clip(chinese_clip, cross_layers=cross_layers, max_text_tokens=24)
    assert (model.config.vision_config.model_type, model.config.text_config.model_type) == ("clip_vision_model", "bert")
    assert model.can_rank == (cross_layers > 0)
    original = hf.ChineseCLIPModel.from_pretrained(chinese_clip).eval()
    inputs = processor(tiny_pictures(3), TEXTS[:3])
    words = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        images = original.get_image_features(inputs["pixel_values"]).pooler_output
        texts = original.get_text_features(**words).pooler_output
        ours = model.encode_image(inputs["pixel_values"]).embed, model.encode_text(**words).embed
    for mine, theirs in zip(ours, (images, texts), strict=True):
        torch.testing.assert_close(mine, theirs / theirs.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    assert float(1 / model.temperature.detach()) == pytest.approx(float(original.logit_scale.detach().exp()))
    for tower, prefix in ((model.image_tower, "vision_model."), (model.text_tower, "text_model.")):
        assert_arrived(tower, chinese_clip, prefix)
    if cross_layers:
        assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")


def test_what_is_no_whole_chinese_clip_is_refused(clip: Path, chinese_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match="says clip, not chinese_clip"):
        from_chinese_clip(clip)
    with pytest.raises(UsageError, match="embed_dim comes from the Chinese-CLIP checkpoint"):
        from_chinese_clip(chinese_clip, embed_dim=64)
    with pytest.raises(UsageError, match=r"max_text_tokens is 64, but .* has positions for 24 tokens"):
        from_chinese_clip(chinese_clip)
    tensors = load_file(chinese_clip / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, chinese_clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CcmbError, match=r"chinese_clip: the weights lack the tensor image_projection\.weight"):
        from_chinese_clip(chinese_clip, max_text_tokens=24)


def recipe(objectives: dict[str, Any] | None = None, **model: Any) -> PretrainRecipe:
    values = {"data": {"folder": "x"}, "training": {"steps": 1}, "objectives": objectives or {}}
    return check_recipe(PretrainRecipe, values | {"model": SMALL | model}, "small.yaml")


def built(recipe: PretrainRecipe) -> tuple[R2D2Model, R2D2Processor]:
    return build_model(recipe.model, recipe.objectives, [Sample("a.jpg", TEXTS)])


def test_a_recipe_may_start_from_two_towers(clip: Path, tmp_path: Path) -> None:
    text = saved_text("ernie", tmp_path / "text")
    model, processor = built(recipe(vision=str(clip), text=str(text), initial_temperature=0.2))
    assert_arrived(model.image_tower, clip, "vision_model.")
    assert_arrived(model.text_tower, text)  # its positions too: they are not made sines
    assert processor.tokenizer.get_vocab() == tiny_processor().tokenizer.get_vocab()
    assert float(model.temperature.detach()) == pytest.approx(0.2)
    assert model.config.match_heads
    assert model.config.mlm_head
    without = built(recipe({"fgr": False, "mlm": False}, vision=str(clip), text=str(text)))[0]
    assert not any("match" in name or "mlm" in name for name in without.state_dict())


def test_a_recipe_may_start_from_a_chinese_clip_or_an_r2d2(chinese_clip: Path, tmp_path: Path) -> None:
    model, _ = built(recipe({"mlm": False}, start=str(chinese_clip)))
    assert_arrived(model.text_tower, chinese_clip, "text_model.")
    assert (model.config.embed_dim, model.config.cross_layers, model.config.mlm_head) == (12, 1, False)
    for folder in (tmp_path / "run" / "model", tmp_path / "plain"):
        tiny_model().save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
    for name in ("run", "plain"):
        started = built(recipe(start=str(tmp_path / name)))[0].state_dict()
        assert all(torch.equal(tensor, started[key]) for key, tensor in tiny_model().state_dict().items())
    with pytest.raises(CcmbError, match="nowhere: no such model folder"):
        built(recipe(start=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "model", [{"vision": "a/b", "text": {"model_type": "bert"}}, {"vision": {}, "text": "a/b"}, {"vision": "a/b"}]
)
def test_a_recipe_with_one_source_and_one_shape_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"'model\.text' = .*model\.vision and model\.text must both be"):
        recipe(**model)


@pytest.mark.parametrize("value", [5, None, "", ["a/b"]])
def test_a_recipe_names_a_tower_that_is_neither_source_nor_shape(value: Any) -> None:
    with pytest.raises(UsageError, match=r"'model\.vision' = .*a mapping with a model_type, or a folder or hub id"):
        recipe(vision=value)


def test_a_run_trains_from_two_towers(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = saved_text("roberta", tmp_path / "text")
    towers = f"model.vision={clip}", f"model.text={text}", "model.max_text_tokens=24"
    command = command_line(monkeypatch, capfd)
    arguments = "pretrain", *tiny_recipe(tiny_corpus(tmp_path / "corpus")), *towers, "--out", tmp_path / "run"
    assert command(*arguments).code == 0
    assert load_model(tmp_path / "run")[0].config.text_config.model_type == "roberta"
