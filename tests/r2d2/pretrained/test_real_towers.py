"""Two real towers, an EfficientNet and a multilingual E5: what R2D2 says by them is what the library says.

They are no part of the project. They are looked for in $CCMB_DATA/weights; without them these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn.functional import normalize

from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.onnx.export import export_model
from ccmb.r2d2.onnx.runtime import load_exported
from ccmb.r2d2.pretrained.towers import from_towers
from ccmb.r2d2.processing import R2D2Processor
from tests.helpers.tiny import TEXTS, tiny_images

WEIGHTS = Path(os.environ.get("CCMB_DATA", "")) / "weights"
EFFICIENTNET, E5 = WEIGHTS / "efficientnet-lite0", WEIGHTS / "multilingual-e5-small-pruned"
pytestmark = pytest.mark.skipif(
    "CCMB_DATA" not in os.environ or not EFFICIENTNET.is_dir() or not E5.is_dir(), reason="needs the real towers"
)


@pytest.fixture(scope="module")
def pair() -> tuple[R2D2Model, R2D2Processor]:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"embed_dim": 64, "cross_layers": 1}
    return from_towers(EFFICIENTNET, E5, text_pooling="mean", text_prefix="query: ", **fields)


def test_an_e5_says_what_the_library_says(pair: tuple[R2D2Model, R2D2Processor]) -> None:
    model, processor = pair
    tokenizer = hf.AutoTokenizer.from_pretrained(E5)
    its: Any = hf.AutoModel.from_pretrained(E5, dtype=torch.float32, add_pooling_layer=False).eval()
    texts = [*TEXTS, "two dogs on the beach", "Zwei Hunde"]
    plain = tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
    inputs = processor.texts(texts)
    assert torch.equal(inputs["input_ids"], plain["input_ids"])
    with torch.no_grad():
        states = its(**{name: plain[name] for name in inputs}).last_hidden_state
        summed = states.masked_fill(~plain["attention_mask"][..., None].bool(), 0.0).sum(1)
        mean = summed / plain["attention_mask"].sum(1)[..., None]
        own_output = model.encode_text(**inputs)
        expected = normalize(model.text_projection(mean))
    real = plain["attention_mask"].bool()
    torch.testing.assert_close(own_output.states[real], states[real], rtol=0, atol=1e-5)
    torch.testing.assert_close(own_output.embed, expected, rtol=0, atol=1e-6)


def test_an_efficientnet_says_what_the_library_says(pair: tuple[R2D2Model, R2D2Processor]) -> None:
    model, processor = pair
    its: Any = hf.AutoModel.from_pretrained(EFFICIENTNET).eval()
    assert (processor.image_size, processor.image_mean, processor.image_std) == (224, (0.5,) * 3, (0.5,) * 3)
    pixels = processor.images(tiny_images(2))
    with torch.no_grad():
        output, own_output = its(pixel_values=pixels), model.encode_image(pixels)
    assert own_output.states.shape == (2, 1 + 7 * 7, 1280)
    torch.testing.assert_close(own_output.states[:, 1:], output.last_hidden_state.flatten(2).mT, rtol=0, atol=1e-6)
    torch.testing.assert_close(own_output.pooled, output.pooler_output, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        own_output.embed, normalize(model.image_projection(output.pooler_output)).detach(), rtol=0, atol=1e-6
    )


@pytest.mark.slow
def test_both_are_saved_opened_and_exported(pair: tuple[R2D2Model, R2D2Processor], tmp_path: Path) -> None:
    model, processor = pair
    model.save_pretrained(tmp_path / "r2d2")
    processor.save_pretrained(tmp_path / "r2d2")
    opened, its = load_model(tmp_path / "r2d2")
    state = opened.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    export_model(tmp_path / "r2d2", tmp_path / "export", "fp32")
    exported, reader = load_exported(tmp_path / "export")
    inputs = reader(tiny_images(3), list(TEXTS[:3]))
    assert all(torch.equal(value, its(tiny_images(3), list(TEXTS[:3]))[name]) for name, value in inputs.items())
    with torch.no_grad():
        for network in (opened, exported):
            images, texts = (
                network.encode_image(inputs["pixel_values"]),
                network.encode_text(inputs["input_ids"], inputs["attention_mask"]),
            )
            if network is opened:
                expected = images.embed, texts.embed
    for one, other in zip((images.embed, texts.embed), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
