"""Tokenizer and processor."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.data.images.transforms import CLIP_MEAN, CLIP_STD
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import SPECIAL, train_tokenizer
from tests.helpers.exact import product_error
from tests.helpers.processes import run_in_a_process
from tests.helpers.tiny import SIZE, TEXTS, tiny_images, tiny_processor

CHARACTERS = sorted({character for text in TEXTS for character in text})


@given(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=20))
def test_no_text_of_seen_characters_has_an_unknown_token(text: str) -> None:
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()


def test_texts_stand_between_cls_and_sep_and_are_padded_to_the_longest() -> None:
    processor = tiny_processor()
    encoded = processor.texts(["小船", TEXTS[0]])
    ids, mask, tokenizer = encoded["input_ids"], encoded["attention_mask"], processor.tokenizer
    lengths = mask.sum(1).tolist()
    assert lengths[0] < lengths[1] == ids.shape[1]
    for row, length in zip(ids.tolist(), lengths, strict=True):
        assert (row[0], row[length - 1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert set(row[length:]) <= {tokenizer.pad_token_id}


def test_a_long_text_is_cut_and_keeps_its_end_token() -> None:
    processor = tiny_processor()
    ids = processor.texts(["船猫灯树" * 30])["input_ids"]
    assert ids.shape == (1, processor.max_text_tokens)
    assert ids[0, -1] == processor.tokenizer.sep_token_id


def test_only_words_are_maskable() -> None:
    processor = tiny_processor()
    encoded = processor.texts(["小船", "鑫" + TEXTS[0]])  # a character never seen is [UNK]
    maskable = processor.maskable(encoded["input_ids"])
    special = {processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL.values()}
    assert maskable.tolist() == [[token not in special for token in row] for row in encoded["input_ids"].tolist()]
    assert processor.tokenizer.unk_token_id in encoded["input_ids"]


def corpus() -> list[str]:
    rng = random.Random(0)
    things, places = ["小船", "苹果", "汽车", "房子", "自行车", "足球", "猫", "狗"], ["左边", "右边", "上方", "中间"]
    return [
        f"{rng.choice(['一只', '两个', '三辆'])}{rng.choice('红黄蓝绿白')}色的{rng.choice(things)}"
        f"在{rng.choice(things)}的{rng.choice(places)}"
        for _ in range(1000)
    ]


def write_tokenizer(path: Path) -> None:
    path.write_text(train_tokenizer(corpus(), 100, 24).backend_tokenizer.to_str(), encoding="utf-8")


def test_the_same_texts_give_the_same_tokenizer_in_another_process(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "here.json")
    current = (tmp_path / "here.json").read_text(encoding="utf-8")
    assert run_in_a_process(write_tokenizer, tmp_path / "there.json").code == 0  # its hashes have another seed
    assert (tmp_path / "there.json").read_text(encoding="utf-8") == current


def test_characters_that_often_stand_together_become_one_token() -> None:
    tokens = train_tokenizer(corpus(), 100, 24).tokenize("两个红色的苹果在自行车的左边")
    assert "两个" in tokens
    assert len(tokens) < len("两个红色的苹果在自行车的左边")


def test_images_become_clip_normalised_squares() -> None:
    processor = tiny_processor()
    plain = Image.new("RGB", (50, 20), (255, 0, 51))
    pixels = processor.images([plain])
    assert pixels.shape == (1, 3, SIZE, SIZE)
    assert pixels.dtype == torch.float32
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        expected = (value - CLIP_MEAN[channel]) / CLIP_STD[channel]
        torch.testing.assert_close(
            pixels[0, channel], torch.full((SIZE, SIZE), expected), rtol=0, atol=product_error(4, 4.0)
        )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_every_image_mode_is_read_as_its_colours(mode: str, tmp_path: Path) -> None:
    processor = tiny_processor()
    image = tiny_images(1)[0].convert(mode).resize((2 * SIZE, 2 * SIZE), Image.Resampling.NEAREST)
    image.save(tmp_path / "picture.png")
    expected = processor.images([image.convert("RGB")])
    assert torch.equal(processor.images([image]), expected)
    assert torch.equal(processor.images([tmp_path / "picture.png"]), expected)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    for name in ("broken.jpg", "missing.jpg"):
        with pytest.raises(CcmbError, match=name):
            tiny_processor().images([tmp_path / name])


def test_a_call_takes_one_or_many_and_gives_the_models_arguments() -> None:
    processor, image = tiny_processor(), tiny_images(1)[0]
    one, many = processor(image, TEXTS[0]), processor([image, image], list(TEXTS[:2]))
    assert set(one) == set(many) == {"pixel_values", "input_ids", "attention_mask"}
    assert torch.equal(one["pixel_values"][0], many["pixel_values"][1])
    assert len(many["input_ids"]) == 2
    assert set(processor(text="小船")) == {"input_ids", "attention_mask"}


def test_saving_and_loading_keeps_what_it_says(tmp_path: Path) -> None:
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    loaded = R2D2Processor.from_pretrained(tmp_path)
    assert (loaded.image_size, loaded.max_text_tokens) == (processor.image_size, processor.max_text_tokens)
    texts = [*TEXTS, "船猫灯树" * 30]
    for name, value in loaded.texts(texts).items():
        assert torch.equal(value, processor.texts(texts)[name])
    ids = processor.texts(texts)["input_ids"]
    assert torch.equal(loaded.maskable(ids), processor.maskable(ids))
