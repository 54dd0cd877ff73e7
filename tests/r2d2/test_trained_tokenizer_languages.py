"""A tokenizer that is trained on texts of several languages knows the words of each."""

from __future__ import annotations

import random

import pytest

from ccmb.r2d2.tokenizer import train_tokenizer

# Stems and endings, so that words share pieces.
STEMS = {
    "en": "climb jump walk play look help want stand paint brush reach catch throw watch smile",
    "ar": "كلب قطار كتاب مدرس لاعب صغير كبير جميل طويل شارع حديق جبل بحر سيار طفل",
    "zh": "小女孩 男孩 黑色 棕色 白色 狗 跑过 爬上 跳过 草地 水 楼梯 红色 裙子 穿着",
}
ENDINGS = {"en": ["", "s", "ed", "ing", "er", "ers"], "ar": ["", "ة", "ات", "ين", "ون", "ها"], "zh": ["", "的", "了"]}


def sentences(language: str, count: int = 400) -> list[list[str]]:
    rng, stems = random.Random(language), STEMS[language].split()
    return [[rng.choice(stems) + rng.choice(ENDINGS[language]) for _ in range(8)] for _ in range(count)]


def joined(language: str) -> list[str]:
    return [("" if language == "zh" else " ").join(words) for words in sentences(language)]


@pytest.mark.parametrize("language", STEMS)
def test_words_of_every_language_are_few_tokens_and_none_is_unknown(language: str) -> None:
    tokenizer = train_tokenizer([text for name in STEMS for text in joined(name)], 1000, 48)
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in joined(language)]
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)
    assert sum(map(len, encoded)) <= 3 * sum(map(len, sentences(language)))


def test_a_chinese_tokenizer_keeps_to_pieces_of_two_characters() -> None:
    pieces = train_tokenizer([*joined("zh"), "穿T恤的人"], 200, 48).get_vocab()
    assert max(len(piece) for piece in pieces if not piece.startswith("[")) == 2
