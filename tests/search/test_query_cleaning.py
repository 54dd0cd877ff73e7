"""Queries are spelt as the texts of a corpus are, simplified text is left alone, and unknown words are said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ccmb.core.errors import UsageError
from ccmb.core.text.cleaning import clean, clean_query
from ccmb.core.text.simplified import simplify
from ccmb.core.validation import check_text
from ccmb.data.class_names import classes_of_names
from ccmb.inference.models.open_model import open_model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.inputs.unknown_words import mostly_unknown
from ccmb.r2d2.loading import load_model
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import SearchQuery
from ccmb.tasks.classification.rerank import classify
from ccmb.tasks.matching.predict import match_images
from tests.helpers.runs import Command, command_line
from tests.helpers.serving import asked, tiny_app
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor

PLAIN = "左边是绿树，右边是一座白色的房子"
WRITTEN = "左邊是綠樹，右邊是一座白色的房子"
SPELLINGS = (WRITTEN, f"\ufeff{PLAIN}\u200b", "左边是\u200b绿树，右边是一座白色的房子\u2028", f"　{PLAIN}　")
UNKNOWN = "鼗黻"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def index(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    for row, image in enumerate(tiny_images(6)):
        (folder / "photos").mkdir(exist_ok=True)
        image.save(folder / f"photos/{row}.png")
    build_index([folder / "photos"], folder / "index", open_model(model))
    return folder / "index"


@pytest.mark.parametrize(
    "text",
    [
        "乾县的面", "昇腾处理器", "乾隆年间的瓷器", "著名景点", "乾陵无字碑", "毕昇与活字印刷", "哪吒闹海",
        "宫商角徵羽", "魏徵劝谏", "获益甚夥", "蒜薹炒肉", "樊於期", "皇后在后面", "一里外的台子", "干净的松树",
        "叶韵", "昇", "乾",
    ],
)  # fmt: skip
def test_simplified_text_is_left_alone(text: str) -> None:
    assert simplify(text) == text
    assert clean(text, simplified=True) == text


@pytest.mark.parametrize(
    ("text", "simplified"),
    [
        ("海邊的日落", "海边的日落"), ("一隻紅色的小船", "一只红色的小船"), ("頭髮", "头发"),
        ("皇后大道後面", "皇后大道后面"), ("乾隆年間的瓷器", "乾隆年间的瓷器"), ("曬乾的魚", "晒干的鱼"),
        ("餅乾", "饼干"),        ("乾杯", "干杯"), ("位於山上", "位于山上"), ("象徵", "象征"), ("夥伴", "伙伴"),
        ("裡面的麵條", "里面的面条"),
        ("鐘錶", "钟表"), ("藉口", "借口"), ("著名的臺灣", "著名的台湾"),
    ],
)  # fmt: skip
def test_traditional_text_becomes_simplified(text: str, simplified: str) -> None:
    assert simplify(text) == simplified


def test_where_both_stand_together_the_traditional_characters_alone_are_converted() -> None:
    assert simplify("华为昇腾與乾县") == "华为昇腾与乾县"
    assert simplify("周杰伦《髮如雪》") == "周杰伦《发如雪》"


def test_queries_are_cleaned_as_the_corpus_is() -> None:
    assert {clean_query(text) for text in SPELLINGS} == {PLAIN}
    assert clean_query("ＡＢＣ１２３　ﾊﾝ") == clean("ＡＢＣ１２３　ﾊﾝ", simplified=True) == "ABC123 ハン"
    assert clean_query("猫&amp;狗") == clean_query("<b>猫&amp;狗</b>") == "猫&狗"
    assert clean_query("<br>") == "<br>"  # it was asked for, be it in vain


def test_without_opencc_simplified_queries_pass_and_traditional_ones_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from ccmb.core.text import simplified

    simplified._tables.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    assert clean_query(f"{PLAIN}\u200b") == PLAIN
    with pytest.warns(UserWarning, match="pip install opencc"):
        assert clean_query("綠樹\u200b") == "綠樹"
    monkeypatch.undo()
    assert clean_query("綠樹") == "绿树"


@pytest.mark.parametrize("text", ["\u200b", "\ufeff \u2060", "　"])
def test_a_text_of_marks_that_cannot_be_seen_is_empty(text: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        check_text(text, "to search for")


def test_a_search_finds_the_same_however_the_text_is_spelt(index: Path) -> None:
    with open_engine(index) as engine:
        plain, *others = engine.search_many([SearchQuery(text, k=6) for text in (PLAIN, *SPELLINGS)])
        assert not plain.unknown
        for answer in others:
            assert [hit.key for hit in answer.hits] == [hit.key for hit in plain.hits]
            assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in plain.hits], abs=1e-5)
        assert engine.search(SearchQuery(UNKNOWN)).unknown


def test_match_and_classify_read_texts_cleaned_and_name_classes_as_given(model: Path) -> None:
    network, processor = load_model(model)
    plain, written = (
        match_images(R2D2Stages(network, processor), text, tiny_images(2))[0] for text in (PLAIN, WRITTEN)
    )
    assert plain.cosine == pytest.approx(written.cosine, abs=1e-6)
    spelling = ["綠樹", "\u200b足球"]
    (result,) = classify(R2D2Stages(network, processor), tiny_images(1), classes_of_names(spelling), ["{}"])
    (known,) = classify(R2D2Stages(network, processor), tiny_images(1), classes_of_names(["绿树", "足球"]), ["{}"])
    assert [item.name for item in result.classes] == [spelling[item.index] for item in known.classes]
    assert [item.cosine for item in result.classes] == pytest.approx([item.cosine for item in known.classes], abs=1e-6)


def test_the_server_cleans_every_text_and_says_what_it_does_not_know() -> None:
    app = tiny_app()
    embeds = asked(app, lambda http: http.post("/embed", json={"texts": [PLAIN, *SPELLINGS]})).json()["texts"]
    assert all(embed == pytest.approx(embeds[0], abs=1e-6) for embed in embeds)
    refused = asked(app, lambda http: http.post("/embed", json={"texts": ["\u200b"]}))
    assert refused.status_code == 422
    assert "cannot be seen" in refused.json()["error"]["message"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def test_a_mostly_unknown_query_says_so(command: Command, index: Path, model: Path) -> None:
    code, out, err = command("search", UNKNOWN, "--index", index, "--json")
    assert (code, len(json.loads(out))) == (0, 6)
    assert f"knows few words or none of '{UNKNOWN}'" in err
    assert "knows few words" not in command("search", WRITTEN, "--index", index).err
    photo = index.parent / "photos/0.png"
    assert f"knows few words or none of '{UNKNOWN}'" in command("match", UNKNOWN, photo, "--model", model).err
    assert (
        f"knows few words or none of '{UNKNOWN}'"
        in command("classify", photo, "--model", model, "--classes", f"绿树,{UNKNOWN}").err
    )


@pytest.mark.parametrize("query", ["飛行機が飛ぶ", "ﾈｺの写真", "강아지 圖書館"])
def test_japanese_and_korean_keep_their_characters(query: str) -> None:
    pytest.importorskip("opencc")
    assert clean_query("飛機") == "飞机"
    assert "飛" in clean_query("飛行機が飛ぶ")
    assert ("圖" in clean_query(query)) == ("圖" in query)


def test_more_unknown_words_than_known_ones_are_mostly_unknown() -> None:
    processor = tiny_processor()
    assert mostly_unknown(processor, ["船", "Ωψ船船船", "ΩψΞΔ 船", "Ω ψ", ""]) == [False, False, True, True, True]
