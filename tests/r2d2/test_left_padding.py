"""Tokenizers that pad on the left: it is [CLS] that stands for a text, never its padding."""

from __future__ import annotations

import pytest
import torch

from ccmb.r2d2.packing import padded_right
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor

SHORT_AND_LONG = ["红", "左边是红色的圆,右边是蓝色的方块"]


def test_the_processor_pads_on_the_right_whatever_the_tokenizers_own_side() -> None:
    processor, other = tiny_processor(), tiny_processor()
    other.tokenizer.padding_side = "left"
    expected, result = (item.texts(SHORT_AND_LONG) for item in (processor, other))
    assert 0 in expected["attention_mask"][0]
    for name in expected:
        assert torch.equal(result[name], expected[name])
    assert (result["input_ids"][:, 0] == other.tokenizer.cls_token_id).all()


@pytest.mark.parametrize("packs", [True, False])
def test_a_text_that_is_padded_on_the_left_has_the_embedding_of_its_words(packs: bool) -> None:
    model, processor = tiny_model().double().eval(), tiny_processor()
    model.pack_texts = packs
    right = processor.texts(SHORT_AND_LONG)
    shift = int((right["attention_mask"][0] == 0).sum())
    assert shift
    left = {name: torch.stack([value[0].roll(shift), value[1]]) for name, value in right.items()}
    images = model.encode_image(processor.images(tiny_images(2)).double())
    index = torch.arange(2)
    with torch.inference_mode():
        expected, result = model.encode_text(**right), model.encode_text(**left)
        torch.testing.assert_close(result.embed, expected.embed, rtol=0, atol=1e-10)
        scores = [model.rank(images, texts, index, index).score for texts in (expected, result)]
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-10)


def test_padding_on_the_left_goes_to_the_end_and_nothing_else_moves() -> None:
    ids = torch.tensor([[9, 9, 1, 2], [3, 4, 9, 9], [5, 9, 6, 9], [9, 9, 9, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    moved, moved_mask = padded_right(ids, mask)
    assert moved.tolist() == [[1, 2, 9, 9], [3, 4, 9, 9], [5, 9, 6, 9], [9, 9, 9, 9]]
    assert moved_mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
