"""The text half of a SigLIP as R2D2's text tower: its own embeddings, whatever lies around them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from ccmb.core.errors import UsageError
from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.folders.kinds import other_kind
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.onnx.export import export_model
from ccmb.r2d2.onnx.runtime import load_exported
from ccmb.r2d2.pretrained.towers import from_towers
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.stored import text_boundary, text_of_rows, text_rows
from tests.helpers.exact import assert_same
from tests.helpers.sources import SMALL, assert_works_and_keeps_its_outputs, made, save_clip
from tests.helpers.tiny import TEXTS, tiny_batch, tiny_processor
from tests.helpers.two_towers import BUILDS, SHORT, SIGLIP, save_two_towers

pytestmark = pytest.mark.numeric

KINDS = ("siglip", "siglip2")
FIELDS = SMALL | {"max_text_tokens": SHORT}


def built(folder: Path, kind: str = "siglip") -> tuple[R2D2Model, R2D2Processor]:
    clip = save_clip(folder / "clip")
    return from_towers(clip, save_two_towers(folder / kind, kind), **FIELDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pooled_state_is_siglips_own(kind: str, tmp_path: Path) -> None:
    model, processor = built(tmp_path, kind)
    model, original = model.double(), made(BUILDS[kind]).double()
    texts = TEXTS[:4]
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / kind)
    padded = tokenizer(texts, padding="max_length", max_length=SHORT, padding_side="right", return_tensors="pt")
    inputs = processor.texts(texts)
    assert inputs["input_ids"].shape[1] < SHORT
    with torch.no_grad():
        expected = original.get_text_features(input_ids=padded["input_ids"])
        expected = getattr(expected, "pooler_output", expected)
        states = original.text_model(input_ids=padded["input_ids"]).last_hidden_state
        output, alone = model.encode_text(**inputs), model.encode_text(inputs["input_ids"][:1])
    assert output.pooled is not None
    assert_same(output.pooled, expected)
    assert_same(output.states[:, 0], expected)
    assert_same(output.states[:, 1:], states[:, 1 : inputs["input_ids"].shape[1]])
    assert_same(alone.embed, output.embed[:1])
    assert_same(output.embed, torch.nn.functional.normalize(model.text_projection(expected)))


def test_the_pooled_state_does_not_depend_on_the_others_of_a_batch(tmp_path: Path) -> None:
    model, processor = built(tmp_path)
    model = model.double()
    together = processor.texts(TEXTS[:4])
    with torch.no_grad():
        embeds = torch.cat([model.encode_text(**processor.texts([text])).embed for text in TEXTS[:4]])
        assert_same(model.encode_text(**together).embed, embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_opened_and_exported(kind: str, tmp_path: Path) -> None:
    model, processor = built(tmp_path, kind)
    inputs = processor.texts(TEXTS[:3])
    with torch.no_grad():
        embed = model.encode_text(**inputs).embed
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "onnx", "fp32")
    exported, _ = load_exported(tmp_path / "onnx")
    torch.testing.assert_close(torch.as_tensor(exported.encode_text(**inputs).embed), embed, rtol=0, atol=1e-4)
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "again")


def test_texts_are_read_in_lower_case(tmp_path: Path) -> None:
    _, processor = built(tmp_path)
    assert processor.texts(["A red CIRCLE"])["input_ids"].equal(processor.texts(["a red circle"])["input_ids"])
    plain = hf.AutoTokenizer.from_pretrained(tmp_path / "siglip")
    assert processor.tokenizer.all_special_ids == plain.all_special_ids


def test_it_is_trained(tmp_path: Path) -> None:
    model, processor = built(tmp_path)
    batch = tiny_batch(4)
    objectives = Objectives.model_validate({"tgd": {"queue_size": 8}})
    training = PreTraining(model.train(), objectives, processor.tokenizer.mask_token_id)
    losses, _ = training(batch, 0.0, torch.Generator().manual_seed(0))
    training.total(losses).backward()
    assert set(losses) == {"gcpr", "fgr", "mlm", "tgd", "fgd"}
    assert all(loss.isfinite() for loss in losses.values())
    layer = model.text_tower.encoder.layers[0].self_attn.q_proj.weight
    assert layer.grad is not None
    assert layer.grad.abs().sum() > 0


def test_a_frozen_one_is_stored_whole_and_not_from_the_middle(tmp_path: Path) -> None:
    model, processor = built(tmp_path)
    model = model.double()
    inputs = processor.texts(TEXTS[:3])
    with torch.no_grad():
        rows = text_rows(model, inputs["input_ids"], inputs["attention_mask"], tokens=True)
        output = text_of_rows(model, inputs["input_ids"], inputs["attention_mask"], rows, None)
        assert_same(output.embed, model.encode_text(**inputs).embed)
    assert text_boundary(model.eval(), 1) is None


def test_widths_that_differ_are_refused(tmp_path: Path) -> None:
    wide = hf.SiglipConfig(text_config=SIGLIP | {"projection_size": 16}, vision_config={})
    folder = tmp_path / "wide"
    wide.save_pretrained(folder)
    tiny_processor().tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match="its pooled state is 16 wide and its tokens 32"):
        from_towers(save_clip(tmp_path / "clip"), folder, **FIELDS)


def test_its_folder_is_named_for_both_towers(tmp_path: Path) -> None:
    assert "and as well for the text tower" in str(other_kind(save_two_towers(tmp_path / "siglip", "siglip")))
