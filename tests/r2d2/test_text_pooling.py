"""Texts pooled by the mean of their tokens, and the prefix that a sentence encoder was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.objectives.config import Objectives
from ccmb.objectives.language_modeling import mask_tokens
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.inputs.processor_inputs import InputValueError
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.onnx.export import export_model
from ccmb.r2d2.onnx.runtime import load_exported
from ccmb.r2d2.packing import mean_state
from ccmb.r2d2.pretrained.towers import from_towers
from ccmb.r2d2.processing import R2D2Processor
from tests.helpers.exact import assert_same
from tests.helpers.sources import SMALL, save_clip, save_sentence_encoder, save_text_tower, sentencepiece_like
from tests.helpers.tiny import TEXTS, tiny_batch, tiny_images, tiny_model, tiny_processor

pytestmark = pytest.mark.numeric

PREFIX = "query: "


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_clip(tmp_path / "clip")


def plain_mean(states_BTW: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.stack(
        [torch.stack([state for state, real in zip(*row, strict=True) if real]).mean(0)
         for row in zip(states_BTW, mask_BT, strict=True)]
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "modernbert"])
def test_the_mean_is_that_of_real_tokens_packed_or_not(kind: str, clip: Path, tmp_path: Path) -> None:
    text = save_text_tower(tmp_path / "text", kind)
    model, processor = from_towers(clip, text, **SMALL, text_pooling="mean")
    model = model.double()
    inputs = processor.texts(TEXTS[:4])
    assert inputs["attention_mask"].sum(1).unique().numel() > 1
    with torch.no_grad():
        states = model.text_tower(**inputs).last_hidden_state
        expected = torch.nn.functional.normalize(model.text_projection(plain_mean(states, inputs["attention_mask"])))
        packed = model.encode_text(**inputs)
        model.pack_texts = False
        padded = model.encode_text(**inputs)
        first = torch.nn.functional.normalize(model.text_projection(states[:, 0]))
    assert_same(packed.embed, expected)
    assert_same(padded.embed, expected)
    assert not torch.allclose(first, expected)
    real = inputs["attention_mask"].bool()
    # The cross encoders' first token has to sum the text up; the others are as the tower gives them.
    assert_same(packed.states[:, 0], plain_mean(states, inputs["attention_mask"]))
    real[:, 0] = False
    assert_same(packed.states[real], states[real])


def test_a_text_without_real_tokens_counts_as_one_token_packed_or_not() -> None:
    model = tiny_model(text_pooling="mean").double()
    ids, mask = torch.full((2, 4), 7), torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]])
    states = torch.randn(2, 4, 3, dtype=torch.double)
    assert_same(mean_state(states, mask), torch.stack([states[0, 0], states[1, :2].mean(0)]))
    with torch.no_grad():
        assert model.encode_text(ids, mask).embed.isfinite().all()
        assert_same(model.encode_text(ids[1:, :2]).embed, model.encode_text(ids, mask).embed[1:])


def test_the_teacher_pools_as_the_student_does() -> None:
    training = PreTraining(tiny_model(text_pooling="mean"), Objectives(), tiny_processor().tokenizer.mask_token_id)
    batch = tiny_batch(2)
    assert training.teacher is not None
    with torch.no_grad():
        student, teacher = (
            towers.encode_text(batch.input_ids, batch.attention_mask) for towers in (training.model, training.teacher)
        )
    assert torch.equal(student.embed, teacher.embed)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_a_sentence_encoder_keeps_its_prefix_in_every_form(kind: str, clip: Path, tmp_path: Path) -> None:
    text = save_sentence_encoder(tmp_path / "text", kind)
    settings = {"text_pooling": "mean", "text_prefix": PREFIX}
    model, processor = from_towers(clip, text, **SMALL, **settings)
    assert (model.config.text_pooling, model.config.text_prefix, processor.text_prefix) == ("mean", PREFIX, PREFIX)
    plain, tokenizer = made_inputs(text, TEXTS[:3]), processor.tokenizer
    inputs = processor(text=list(TEXTS[:3]))
    assert all(torch.equal(inputs[name], plain[name]) for name in inputs)
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())[:4] == ["<s>", "▁que", "ry", ":"]
    with torch.no_grad():
        states = hf.AutoModel.from_pretrained(text).double().eval()(**plain).last_hidden_state
        own_output = model.double().encode_text(**inputs)
    expected = model.text_projection(plain_mean(states, plain["attention_mask"]))
    assert_same(own_output.embed, torch.nn.functional.normalize(expected))

    model.float().save_pretrained(tmp_path / "r2d2")
    processor.save_pretrained(tmp_path / "r2d2")
    opened, its = load_model(tmp_path / "r2d2")
    assert (opened.config.text_pooling, opened.text_pooling, its.text_prefix) == ("mean", "mean", PREFIX)
    assert hf.AutoProcessor.from_pretrained(tmp_path / "r2d2").text_prefix == PREFIX
    assert its.resized(64, 30).text_prefix == PREFIX
    export_model(tmp_path / "r2d2", tmp_path / "export", "fp32")
    exported, reader = load_exported(tmp_path / "export")
    with torch.no_grad():
        exported_embed = exported.encode_text(**reader.texts(TEXTS)).embed
        opened_embed = opened.encode_text(**its.texts(TEXTS)).embed
    torch.testing.assert_close(exported_embed, opened_embed, rtol=1e-5, atol=1e-5)


def made_inputs(folder: Path, texts: tuple[str, ...]) -> Any:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    given = tokenizer([PREFIX + text for text in texts], padding=True, return_tensors="pt")
    return {name: given[name] for name in ("input_ids", "attention_mask")}


def with_prefix() -> R2D2Processor:
    return R2D2Processor(sentencepiece_like(), 32, 24, text_prefix=PREFIX)


def test_the_prefix_is_never_masked_and_words_are() -> None:
    processor = with_prefix()
    inputs = processor.texts(TEXTS)
    maskable, ids = processor.maskable(inputs["input_ids"]), inputs["input_ids"]
    assert not maskable[:, :4].any()  # <s> and query:
    special = torch.tensor(processor.tokenizer.all_special_ids)
    assert torch.equal(maskable[:, 4:], ~torch.isin(ids[:, 4:], special))
    masked = mask_tokens(
        ids,
        maskable,
        processor.tokenizer.mask_token_id,
        60,
        probability=0.9,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(masked.input_ids[:, :4], ids[:, :4])
    assert (masked.input_ids == processor.tokenizer.mask_token_id).any()


def test_the_prefix_counts_in_the_length() -> None:
    processor = with_prefix()
    (long,) = processor.lengths([TEXTS[0] * 9])
    assert long == processor.tokenizer(PREFIX + TEXTS[0] * 9, return_tensors="pt")["input_ids"].shape[1] > 24
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 24 tokens"):
        inputs = processor(text=[TEXTS[0] * 9, "猫"])
    assert inputs["input_ids"].shape == (2, 24)
    assert inputs["input_ids"][0, :4].tolist() == inputs["input_ids"][1, :4].tolist()
    with pytest.raises(InputValueError, match="max_length is 5; give 6 to 24"):
        processor(text="猫", max_length=5)


def test_a_processor_with_another_prefix_is_refused_with_file_and_key(tmp_path: Path) -> None:
    tiny_model(text_prefix=PREFIX).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    with pytest.raises(CcmbError, match=r"preprocessor_config.json: text_prefix is '', but that of config.json is 'qu"):
        load_model(tmp_path)


@pytest.mark.parametrize(("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "first")])
def test_a_sentence_encoders_own_pooling_is_taken(mode: str, pooling: str, clip: Path, tmp_path: Path) -> None:
    text = save_sentence_encoder(tmp_path / "text", pooling=mode)
    assert from_towers(clip, text, **SMALL)[0].config.text_pooling == pooling
    assert from_towers(clip, text, **SMALL, text_pooling="mean")[0].config.text_pooling == "mean"


def test_a_pooling_that_there_is_not_is_refused(clip: Path, tmp_path: Path) -> None:
    text = save_sentence_encoder(tmp_path / "text", pooling="max_tokens")
    with pytest.raises(UsageError, match=r"1_Pooling/config.json: pooling_mode_max_tokens; say text_pooling=first"):
        from_towers(clip, text, **SMALL)
    with pytest.raises(UsageError, match="text_pooling is 'max'"):
        R2D2Config(text_pooling="max")  # type: ignore[arg-type]


def test_all_objectives_train_on_a_sentence_encoder(clip: Path, tmp_path: Path) -> None:
    text = save_sentence_encoder(tmp_path / "text")
    model, processor = from_towers(clip, text, **SMALL, text_pooling="mean", text_prefix=PREFIX)
    training = PreTraining(
        model, Objectives.model_validate({"tgd": {"queue": 6}}), processor.tokenizer.mask_token_id
    ).train()
    texts = processor.texts(TEXTS[:4])
    batch = tiny_batch(4)
    batch = type(batch)(
        pixel_values=processor.images(tiny_images(4)), **texts,
        maskable=processor.maskable(texts["input_ids"]), image_ids=batch.image_ids,
    )  # fmt: skip
    losses, _ = training.losses(batch, 0.0, torch.Generator().manual_seed(0))
    training.total(losses).backward()
    assert set(losses) == {"gcpr", "fgr", "mlm", "tgd", "fgd"}
    words = model.text_tower.get_input_embeddings().weight
    assert words.grad is not None
    assert words.grad[processor.tokenizer.mask_token_id].any()
