"""R2D2 from a whole Chinese-CLIP: the same embeddings, the same tensors."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.pretrained.towers import from_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from tests.helpers.exact import assert_same, product_error
from tests.helpers.sources import (
    assert_arrived,
    assert_works_and_keeps_its_outputs,
    chinese_clip,
    made,
    save_chinese_clip,
    save_clip,
)
from tests.helpers.tiny import TEXTS, tiny_images

pytestmark = pytest.mark.numeric


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_chinese_clip(tmp_path / "chinese_clip")


@pytest.mark.parametrize("cross_layers", [0, 1])
def test_a_chinese_clip_starts_with_its_own_embeddings(cross_layers: int, folder: Path, tmp_path: Path) -> None:
    model, processor = from_chinese_clip(folder, cross_layers=cross_layers)
    assert (model.config.vision_config.model_type, model.config.text_config.model_type) == ("clip_vision_model", "bert")
    assert model.can_rank == (cross_layers > 0)
    original, network = made(chinese_clip).double(), copy.deepcopy(model).double()
    inputs = processor(tiny_images(3), TEXTS[:3])
    words = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        images = original.get_image_features(inputs["pixel_values"].double()).pooler_output
        texts = original.get_text_features(**words).pooler_output
        actual = network.encode_image(inputs["pixel_values"]).embed, network.encode_text(**words).embed
    for own, reference in zip(actual, (images, texts), strict=True):
        assert_same(own, reference / reference.norm(dim=1, keepdim=True))
    scale = float(original.logit_scale.detach().exp())
    assert float(1 / model.temperature.detach()) == pytest.approx(scale, rel=product_error(3))  # exp, 1 / x twice
    for tower, prefix in ((model.image_tower, "vision_model."), (model.text_tower, "text_model.")):
        assert_arrived(tower, folder, prefix)
    if cross_layers:
        assert_works_and_keeps_its_outputs(model, processor, tmp_path / "r2d2")


def test_curly_quotes_are_read_as_straight_ones_as_by_chinese_clip(tmp_path: Path) -> None:
    """It replaces both curly quotes by straight ones before BERT's tokenizer, whose vocabulary has no others."""
    folder = save_chinese_clip(tmp_path / "clip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    vocabulary = folder / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", '"', *sorted(set("".join(TEXTS)))]
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    plain = BertTokenizer(vocab=str(vocabulary))
    assert plain("“红”")["input_ids"][1] == plain.unk_token_id
    expected = plain('"红"蓝')["input_ids"]
    assert expected[1] != plain.unk_token_id
    _, processor = from_chinese_clip(folder, cross_layers=0)
    assert processor.texts(["“红”蓝"])["input_ids"][0].tolist() == expected
    processor.save_pretrained(tmp_path / "saved")
    again = R2D2Processor.from_pretrained(tmp_path / "saved")
    assert again.texts(["“红”蓝"])["input_ids"][0].tolist() == expected


def test_what_is_no_whole_chinese_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match="says clip, not chinese_clip"):
        from_chinese_clip(save_clip(tmp_path / "clip"))
    with pytest.raises(UsageError, match="embed_dim comes from the Chinese-CLIP checkpoint"):
        from_chinese_clip(folder, embed_dim=64)
    with pytest.raises(UsageError, match=r"max_text_tokens is 65, but .* has positions for 64 tokens"):
        from_chinese_clip(folder, max_text_tokens=65)
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CcmbError, match=r"chinese_clip: the weights lack the tensor image_projection\.weight"):
        from_chinese_clip(folder)
