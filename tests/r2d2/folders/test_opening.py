"""Opening a model: files that do not belong together, folders of another kind, shards, half precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from ccmb.core.errors import CcmbError
from ccmb.r2d2.generative.captioner import R2D2Captioner, load_captioner
from ccmb.r2d2.loading import load_model, model_folder, weights_fingerprint
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.towers import from_chinese_clip, from_towers
from ccmb.tasks.finetuning.interpolate import mix
from ccmb.tasks.pretraining.run import save_model
from ccmb.training.nonfinite import what_to_lower
from ccmb.training.trainer import widen
from tests.helpers.runs import command_line
from tests.helpers.sources import VISIONS, chinese_clip, made, save_chinese_clip, save_clip, save_text_tower, saved
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import save_pairs, save_start, tuned
from tests.helpers.two_towers import save_two_towers

HALVES = [torch.bfloat16, torch.float16]


def change(folder: Path, file: str, **values: Any) -> None:
    """Change keys of one of the folder's JSON files; `a__b` is the key b within a."""
    path = folder / file
    content = json.loads(path.read_text())
    for key, value in values.items():
        *parents, last = key.split("__")
        position = content
        for parent in parents:
            position = position[parent]
        position[last] = value
    path.write_text(json.dumps(content))


def change_weights(folder: Path, changed: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(changed(load_file(path)), path, metadata={"format": "pt"})


def halved(folder: Path, dtype: torch.dtype, **changes: Any) -> Path:
    """A model folder in half precision, as Python saves one."""
    tiny_model(**changes).to(dtype).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_start(tmp_path / "model")


def refusal(folder: Path) -> str:
    with pytest.raises(CcmbError) as error:
        load_model(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


# Files that do not belong together.


def test_a_tokenizer_larger_than_the_embeddings_is_refused(folder: Path) -> None:
    tokenizer = tiny_processor().tokenizer
    words = len(tokenizer)
    larger = type(tokenizer).from_pretrained(folder)
    larger.add_tokens(["乾县", "昇腾"])
    larger.save_pretrained(folder)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'tokenizer.json'}: has {words + 2} tokens, but the network embeddings for ")
    assert f"{words} (text_config.vocab_size of config.json)" in message


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "config.json: max_text_tokens is 25, but the text tower has positions for 24 tokens"),
        (
            "preprocessor_config.json",
            "preprocessor_config.json: max_text_tokens is 25, but the text tower has positions",
        ),
    ],
)
def test_texts_longer_than_the_positions_are_refused(folder: Path, file: str, message: str) -> None:
    change(folder, file, max_text_tokens=25)
    assert message in refusal(folder)


def test_a_processor_that_cuts_later_than_its_network_is_refused(folder: Path) -> None:
    change(folder, "config.json", max_text_tokens=20)
    assert "max_text_tokens is 24, but that of config.json is 20" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "named", "words"),
    [
        ("cross_layers", "image_text_encoder.layer.1.", "(cross_layers is 1)"),
        ("vision_config__num_hidden_layers", "image_tower.encoder.layers.1.", "(vision_config.num_hidden_layers is 1)"),
        ("text_config__num_hidden_layers", "text_tower.encoder.layer.1.", "(text_config.num_hidden_layers is 1)"),
    ],
)
def test_a_config_of_other_layers_than_the_weights_have_is_refused(
    tmp_path: Path, key: str, named: str, words: str
) -> None:
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = tmp_path / "deeper"
    tiny_model(
        vision_config=tower | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16},
        text_config=tower | {"model_type": "bert", "vocab_size": 90, "max_position_embeddings": 24},
    ).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    load_model(folder)
    change(folder, "config.json", **{key: 1})
    fewer = refusal(folder)
    assert fewer.startswith(f"{folder / 'model.safetensors'}: holds {named}")
    assert "for which config.json has no place" in fewer
    assert words in fewer
    change(folder, "config.json", **{key: 3})
    more = refusal(folder)
    assert more.startswith(f"{folder / 'model.safetensors'}: lacks {named.replace('.1.', '.2.')}")
    assert words.replace("1)", "3)") in more


def test_heads_that_the_config_does_not_have_are_refused_by_key(folder: Path) -> None:
    change(folder, "config.json", match_heads=False)
    assert "(match_heads is False)" in refusal(folder)
    change(folder, "config.json", match_heads=True, mlm_head=False)
    assert (
        "holds mlm_head.LayerNorm.bias and 4 more, for which config.json has no place (mlm_head is False)"
        in refusal(folder)
    )


def test_weights_of_other_shapes_are_named_with_both(folder: Path) -> None:
    change(folder, "config.json", embed_dim=8)
    message = refusal(folder)
    assert "image_projection.bias is (16,) and 3 more, but config.json asks for (8,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_weights_that_are_no_numbers_is_refused(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["text_projection.bias"][:3] = value
        return tensors

    change_weights(folder, spoil)
    assert f"{folder / 'model.safetensors'}: text_projection.bias holds 3 values that are not finite" in refusal(folder)


def test_a_decoder_of_nan_is_refused(tmp_path: Path) -> None:
    captioner = R2D2Captioner.from_r2d2(tiny_model(), tiny_processor())
    with torch.no_grad():
        captioner.decoder.head.bias[0] = float("nan")
    save_model(tmp_path / "captioner", captioner, tiny_processor())
    with pytest.raises(CcmbError, match=r"captioner\.safetensors: head\.bias holds 1 values that are not finite"):
        load_captioner(tmp_path / "captioner")


def test_towers_whose_weights_do_not_suit_their_config_are_refused(tmp_path: Path) -> None:
    clip, text = save_clip(tmp_path / "clip"), save_text_tower(tmp_path / "text", "roberta")
    change(text, "config.json", num_hidden_layers=1)
    with pytest.raises(CcmbError, match=r"text: the weights hold encoder\.layer\.1\..*config\.json has no layer"):
        from_towers(clip, text, max_text_tokens=24)
    change(text, "config.json", num_hidden_layers=2, intermediate_size=40)
    with pytest.raises(
        CcmbError, match=r"text: encoder\.layer\.0\.\S+ is \(48,\) and \d+ more in the weights, but \(40"
    ):
        from_towers(clip, text, max_text_tokens=24)
    change(text, "config.json", intermediate_size=48)
    change(clip, "config.json", vision_config__num_hidden_layers=1)
    with pytest.raises(CcmbError, match=r"clip: the weights hold encoder\.layers\.1\."):
        from_towers(clip, text, max_text_tokens=24)
    change_weights(text, lambda tensors: {name: tensor / 0 for name, tensor in tensors.items()})
    change(clip, "config.json", vision_config__num_hidden_layers=2)
    with pytest.raises(CcmbError, match=r"text: .* values that are not finite"):
        from_towers(clip, text, max_text_tokens=24)


# Folders of another kind.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            save_chinese_clip,
            "not an R2D2 but a Chinese-CLIP; `ccmb finetune --model` and `ccmb pretrain RECIPE model.init_from=",
        ),
        (
            lambda path: save_two_towers(path, "clip"),
            "not an R2D2 but a CLIP (clip); `ccmb index`",
        ),
        (
            lambda path: save_two_towers(path, "siglip"),
            "not an R2D2 but a SigLIP (siglip); `ccmb index`",
        ),
        (
            save_text_tower,
            "not an R2D2 but a text encoder alone (bert); `ccmb pretrain RECIPE model.vision=... model.text",
        ),
        (
            lambda path: saved(VISIONS["dinov2"], path),
            "an image tower alone (dinov2); `ccmb pretrain RECIPE model.vision",
        ),
    ],
    ids=["chinese_clip", "clip", "siglip", "bert", "dinov2"],
)
def test_a_folder_of_another_kind_says_what_it_is(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    assert words in refusal(make(tmp_path / "other"))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("open_clip_config.json", "an open_clip model; --model open_clip:ARCHITECTURE/FILE takes it"),
        ("adapter_config.json", "an adapter of PEFT (LoRA)"),
        ("model_index.json", "a pipeline of diffusers; `ccmb finetune generation generation.pipeline=` takes it"),
        ("images.npy", "a folder of stored features; `ccmb evaluate` and `benchmark` take it by --model"),
        ("thumbnails.db", "an index, no model"),
        ("r2d2_250m.pth", "a folder with the checkpoint r2d2_250m.pth; `ccmb convert`"),
        ("step-100/state.pt", "checkpoints of a run that is not finished"),
    ],
)
def test_a_folder_without_a_config_is_known_by_its_files(tmp_path: Path, file: str, words: str) -> None:
    path = tmp_path / "folder" / file
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert words in refusal(tmp_path / "folder")


def test_a_file_in_the_place_of_a_folder_is_no_missing_one(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(
        CcmbError, match=r"model\.pth: a checkpoint of torch, no model folder; `ccmb convert` makes one"
    ):
        model_folder(tmp_path / "model.pth")


def test_a_verb_that_is_of_r2d2_alone_says_what_a_chinese_clip_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, other = command_line(monkeypatch, capfd), save_chinese_clip(tmp_path / "clip")
    image = tmp_path / "a.png"
    tiny_images(1)[0].save(image)
    for arguments in (
        ("caption", image, "--model", other),
        ("export", "--model", other, "--out", tmp_path / "int8"),
        ("mix", other, other, "--out", tmp_path / "mixed"),
    ):
        outcome = command(*arguments)
        assert outcome.code == 1, outcome
        assert f"{other}: not an R2D2 but a Chinese-CLIP; `ccmb finetune --model`" in outcome.err


# Shards.


def test_sharded_folders_load_as_whole_ones_do(tmp_path: Path) -> None:
    model, folder = tiny_model(), tmp_path / "sharded"
    model.save_pretrained(folder, max_shard_size="20KB")
    tiny_processor().save_pretrained(folder)
    assert not (folder / "model.safetensors").exists()
    loaded, _ = load_model(folder)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert weights_fingerprint(folder) == weights_fingerprint(folder)
    first = sorted(folder.glob("model-*.safetensors"))[0]
    before = weights_fingerprint(folder)
    save_file({name: tensor + 1 for name, tensor in load_file(first).items()}, first, metadata={"format": "pt"})
    assert weights_fingerprint(folder) != before
    first.unlink()
    assert f"{first}: missing" in refusal(folder)
    change(folder, "model.safetensors.index.json", weight_map={"a": "../secret.safetensors"})
    assert "names '../secret.safetensors', which is no file of this folder" in refusal(folder)


def test_a_sharded_captioner_and_chinese_clip_load_too(tmp_path: Path) -> None:
    captioner, folder = R2D2Captioner.from_r2d2(tiny_model(), tiny_processor()), tmp_path / "captioner"
    captioner.save_pretrained(folder, max_shard_size="20KB")
    tiny_processor().save_pretrained(folder)
    loaded = load_captioner(folder)[0].state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in captioner.state_dict().items())
    whole, sharded = save_chinese_clip(tmp_path / "whole"), tmp_path / "sharded"
    made(chinese_clip).save_pretrained(sharded, max_shard_size="20KB")
    tiny_processor().tokenizer.save_pretrained(sharded)
    one, other = (
        from_chinese_clip(item, cross_layers=0, max_text_tokens=24)[0].state_dict() for item in (whole, sharded)
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# Precision.


def dtypes(model: torch.nn.Module) -> set[torch.dtype]:
    return {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_model_in_half_precision_is_opened_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model, processor = load_model(halved(tmp_path / "half", dtype))
    assert dtypes(model) == {torch.float32}
    rounded = tiny_model().to(dtype).float()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in rounded.state_dict().items())
    save_model(tmp_path / "again", model, processor)
    assert {tensor.dtype for tensor in load_file(tmp_path / "again" / "model.safetensors").values()} == {torch.float32}
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", HALVES)
def test_published_towers_in_half_precision_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    def half(make: Callable[[Path], Path], name: str) -> Path:
        folder = make(tmp_path / name)
        AutoModel.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {dtype}
        return folder

    clip, text = half(save_clip, "clip"), half(save_text_tower, "text")
    assert dtypes(from_towers(clip, text, max_text_tokens=24)[0]) == {torch.float32}
    assert dtypes(from_chinese_clip(half(save_chinese_clip, "chinese_clip"), max_text_tokens=24)[0]) == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.bfloat16, "retrieval"), (torch.float16, "retrieval"), (torch.float16, "matching")],
)
def test_fine_tuning_of_a_half_precision_model_moves_its_weights(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    start, data = halved(tmp_path / "start", dtype), save_pairs(tmp_path / "data", copies=2)
    lines = [json.loads(line) | {"label": 1} for line in (data / "pairs.jsonl").read_text().splitlines()]
    labelled = [
        {"image": item["image"], "split": item["split"], "text": item["texts"][0], "label": 1} for item in lines
    ]
    labelled += [item | {"text": TEXTS[3], "label": 0} for item in labelled if item["text"] != TEXTS[3]]
    (data / "labelled.jsonl").write_text("".join(json.dumps(item) + "\n" for item in labelled))
    small = {
        "optimizer__lr": 1e-5,
        "training__steps": 2,
        "optimizer__warmup_steps": 0,
        "optimizer__warmup_start_factor": 0,
    }
    tuned(start, data, tmp_path / "run", name=name, **small, validation__split="")
    before, after = load_model(start)[0].state_dict(), load_model(tmp_path / "run")[0].state_dict()
    wide = [key for key, tensor in after.items() if tensor.dim() > 1 and "embeddings" not in key and "mlm" not in key]
    moved = sum(int((before[key] != after[key]).sum()) for key in wide) / sum(after[key].numel() for key in wide)
    assert moved > 0.9  # in bf16 a step of 1e-5 moves hardly any
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


def test_half_precision_networks_are_exported_mixed_and_widened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one, other = halved(tmp_path / "one", torch.float16), halved(tmp_path / "other", torch.bfloat16)
    mix(one, other, 0.5, tmp_path / "mixed")
    assert dtypes(load_model(tmp_path / "mixed")[0]) == {torch.float32}
    outcome = command_line(monkeypatch, capfd)(
        "export", "--model", one, "--out", tmp_path / "onnx", "--precision", "fp32"
    )
    assert outcome.code == 0, outcome
    model = widen(R2D2Model.from_pretrained(one))
    assert dtypes(model) == {torch.float32}


def test_advice_names_what_was_set() -> None:
    assert what_to_lower("bf16", True, 1e-3) == (
        "lower optimizer.lr (it is 0.001), or set training.precision=fp32 (it is bf16)"
    )
    assert "it is bf16, which auto comes to here" in what_to_lower("auto", True)
    assert "set training.precision" not in what_to_lower("fp32", False)
    assert "training.precision=auto computes in fp32 already" in what_to_lower("auto", False)


def test_a_tower_that_counts_positions_after_padding_opens_with_all_of_them(tmp_path: Path) -> None:
    clip, text = save_clip(tmp_path / "clip"), save_text_tower(tmp_path / "text", "roberta")
    model, processor = from_towers(clip, text, max_text_tokens=64)  # of 65 positions, one is before the first token's
    save_model(tmp_path / "model", model, processor)
    assert load_model(tmp_path / "model")[0].config.max_text_tokens == 64
    change(tmp_path / "model", "config.json", max_text_tokens=65)
    assert "max_text_tokens is 65, but the text tower has positions for 64 tokens" in refusal(tmp_path / "model")
