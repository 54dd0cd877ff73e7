"""Filters of single texts: what they drop and what they must not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.corpus.base.recipe import TextRecipe
from ccmb.corpus.texts.filters import (
    SensitiveWords,
    boilerplate,
    characters,
    contacts,
    emails,
    filters_of,
    han_share,
    mojibake,
    phones,
    read_words,
    reason_against,
    urls,
    words,
)
from ccmb.corpus.texts.normalize import bare, clean, template

GOOD = (
    "红色帆船", "夜晚的草地上的一艘红色的大帆船和两把蓝色雨伞", "2023款宝马X5报价", "联通营业厅", "重庆市渝中区解放碑",
    "小米11手机1388元起", "李白《将进酒》", "下一站天后", "首页设计欣赏", "大众途观L 2.0T 四驱", "汉字㐂𠮷的写法",
    "1998年12月13日拍摄的长城", "身高180体重75公斤的男模特", "三星galaxy手机壳", "苹果12 128g 黑色",
)  # fmt: skip
han = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=2, max_size=30)


@pytest.mark.parametrize("text", GOOD)
def test_good_queries_are_kept(text: str) -> None:
    assert mojibake(text) is None
    assert reason_against(clean(text, True), filters_of(TextRecipe())["query"]) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("船", "too few characters"), ("红" * 51, "too many characters"), ("a red boat", "not Chinese"),
        ("!!!???", "too few words"), ("点击查看大图", "boilerplate"), ("正在加载中", "boilerplate"),
        ("版权所有 转载请注明出处", "boilerplate"), ("第3张 共12张图片", "boilerplate"),
        ("微信图片_20210203", "name of a file"), ("红色帆船IMG.jpg", "name of a file"),
        ("红色帆船高清大图尽在www.tu.com", "URL"), ("更多图片请看 tupian88.cn", "URL"),
        ("联系我们 abc@example.com 谢谢您的来信", "e-mail address"), ("需要请打电话13812345678", "phone number"),
        ("需要请打电话 138-1234-5678", "phone number"), ("热线电话010-62345678", "phone number"),
        ("全国热线400-800-1234", "phone number"), ("想要的朋友加微信abc_12345吧", "chat account"),
        ("需要的朋友请加QQ群:123456789", "chat account"),
    ],
)  # fmt: skip
def test_bad_texts_are_dropped_with_the_reason(text: str, reason: str) -> None:
    assert reason_against(clean(text, True), filters_of(TextRecipe())["query"]) == reason


def test_lengths_count_characters_and_words() -> None:
    assert characters("红色帆船", 4, 4) is None
    # Four Han, and two runs of Latin letters or digits.
    assert words("红色 boat42, 帆船2", 6, 6) is None
    assert words("红色 boat42, 帆船2", 7, 9) == "too few words"
    assert words("红色 boat42, 帆船2", 1, 5) == "too many words"


def test_han_share_counts_words_but_no_numbers() -> None:
    assert han_share("红船 boat sail 1234", 0.5) is None
    assert han_share("红船 boat sail ship", 0.5) == "not Chinese"
    assert han_share("1234", 0.0) == "not Chinese"


@given(han)
def test_utf8_read_in_another_encoding_is_mojibake(text: str) -> None:
    assert mojibake(text.encode().decode("latin-1")) == "mojibake"
    assert mojibake(text.encode().decode("cp1252", "replace")) == "mojibake"
    read = text.encode().decode("gb18030", "replace")
    assert mojibake(read) == "mojibake"


@pytest.mark.parametrize("text", ["锟斤拷锟斤拷", "烫烫烫烫", "红色\ufffd帆船", "红\x85船", "\ue000红色帆船"])
def test_traces_of_lost_bytes_are_mojibake(text: str) -> None:
    assert mojibake(text) == "mojibake"


@given(st.text(max_size=60))
def test_no_text_breaks_a_filter(text: str) -> None:
    assert mojibake(text) in (None, "mojibake")
    for field in filters_of(TextRecipe()).values():
        reason_against(text, field)


@given(st.text(st.sampled_from("红船 &;<>/abp0１Ａ\u200b\u3000\n,，繁體"), max_size=30))
def test_cleaning_is_done_once_for_all(text: str) -> None:
    # An entity may hide another one, which a second cleaning would undo.
    once = clean(text, True)
    assert "&" in text or clean(once, True) == once
    assert once == once.strip()


def test_cleaning_by_example() -> None:
    assert clean("  红色\u3000帆船\u200b\n图 ") == "红色 帆船 图"
    assert clean("ＡＢＣ１２３\uff0c红船\uff01") == "ABC123\uff0c红船\uff01"
    assert clean("<b>红船</b>&nbsp;&amp;&quot;海&quot;") == '红船 &"海"'
    assert clean("红 色 帆 船") == "红色帆船"
    assert clean("紅色帆船", simplified=True) == "红色帆船"
    assert clean("紅色帆船") == "紅色帆船"


def test_texts_are_compared_without_punctuation_and_case() -> None:
    assert bare("【图】红色 Boat-12!") == bare("图红色boat12") == "图红色boat12"
    assert template("宝马X5报价_2023款") == "宝马#报价_#款"
    assert template("红色帆船") is None


def test_boilerplate_within_a_longer_text_is_kept() -> None:
    assert boilerplate("夕阳下的海边,一艘红色的帆船慢慢驶来,点击查看大图") is None


@pytest.mark.parametrize("text", ["红色帆船 1:200 模型", "价格 1,388.50 元", "2.4G无线", "今年双11"])
def test_numbers_are_no_contacts(text: str) -> None:
    assert contacts(text) is None
    assert urls(text) is emails(text) is phones(text) is None


@given(st.lists(han, min_size=1, max_size=5), han, st.integers(0, 30))
def test_sensitive_words_are_found_wherever_they_stand(listed: list[str], text: str, at: int) -> None:
    reason = SensitiveWords(listed)
    assert reason(text[:at] + listed[0] + text[at:]) == "sensitive word"
    assert (reason(text) is not None) == any(word in text for word in listed)


def test_the_file_of_sensitive_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# words\n坏词\n\nBAD\n", encoding="utf-8")
    assert read_words(str(path)) == ["坏词", "BAD"]
    recipe = TextRecipe(sensitive_words=str(path))
    assert reason_against("这里有坏词", filters_of(recipe)["query"]) == "sensitive word"
    path.write_bytes("坏词\n脏话".encode("gbk"))
    assert read_words(str(path)) == ["坏词", "脏话"]
    path.write_bytes(b"bad\n\xff\xfe")
    with pytest.raises(CcmbError, match=r"words\.txt:2: not UTF-8"):
        filters_of(recipe)
    with pytest.raises(CcmbError, match="no such file"):
        read_words(str(tmp_path / "none.txt"))
