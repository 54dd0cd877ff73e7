"""Conditions are read by the type of the field: texts as texts, numbers as numbers, yes or no, and dates."""

import json
import math
from pathlib import Path

import pytest

from ccmb.core.errors import UsageError
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.loading import load_model
from ccmb.search.engine import open_engine
from ccmb.search.filters import compile_conditions, parse_condition
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import Condition, NumberTest, TextTest
from ccmb.serving.app import make_app
from ccmb.serving.model_worker import ModelWork
from tests.helpers.serving import post
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

KNOWN = {"code": str, "title": str, "n": int, "price": float, "sold": bool, "date": str, "folder": str}


def compiled(*where: str | Condition):
    conditions = [parse_condition(item) if isinstance(item, str) else item for item in where]
    return compile_conditions(conditions, KNOWN)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("code=007", ["007"]), ('code="007"', ["007"]), ("code=7", ["7"]), ("code=1e3", ["1e3"]),
        ("code=1.50", ["1.50"]), ("code=+86", ["+86"]), ("code=-0", ["-0"]), ("code=true", ["true"]),
        ("code=True", ["True"]), ("code=12345678901234567890", ["12345678901234567890"]),
        ("code in 007, 08,9", ["007", "08", "9"]),
    ],
)  # fmt: skip
def test_a_text_field_is_compared_as_the_text_that_was_written(text, values):
    assert compiled(text) == (TextTest("code", tuple(values)),)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('title="a,b"', ["a,b"]), ("title=a,b", ["a,b"]), ('title in "a,b",c', ["a,b", "c"]),
        ('title in c , "a,b" ', ["c", "a,b"]), ('title in "a,b"', ["a,b"]),
        ('title in "你好，世界","x"', ["你好，世界", "x"]),
        ('title in "a ""b"", c",d', ['a "b", c', "d"]), ('title=""', [""]), ('title in "",x', ["", "x"]),
        ('title in a"b,c', ['a"b', "c"]), ('title in " a",b', [" a", "b"]),
    ],
)  # fmt: skip
def test_quotes_protect_commas_and_blanks(text, values):
    assert compiled(text) == (TextTest("title", tuple(values)),)


def test_numbers_are_numbers_however_they_are_written():
    seven = NumberTest("n", ((7.0, math.nextafter(7.0, math.inf)),))
    for value in (7, "7", "007", "7.0", "７"):
        assert compiled(Condition("n", "==", value)) == (seven,)
    assert compiled("n=007") == compiled("n=7") == compiled('n="7"') == (seven,)
    assert compiled("price>=1e2") == (NumberTest("price", ((100.0, math.inf),)),)
    assert compiled("price<0.50") == (NumberTest("price", ((-math.inf, 0.5),)),)


def test_yes_or_no_is_true_or_false():
    yes = NumberTest("sold", ((1.0, math.nextafter(1.0, math.inf)),))
    for value in (True, 1, "true", "True"):
        assert compiled(Condition("sold", "==", value)) == (yes,)
    assert compiled("sold=true") == compiled("sold==1") == (yes,)


def test_dates_are_spans_of_time():
    assert compiled("date=2024-02") == (NumberTest("date", ((1706745600, 1709251200),)),)  # 29 days
    assert compiled(Condition("date", "<", 2024)) == (NumberTest("date", ((-math.inf, 1704067200),)),)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("n=1_000", "'1_000' is none"), ("price=true", "'true' is none"), ("price>nan", "'nan' is none"),
        ("n>inf", "'inf' is none"), ("sold=2", "write true or false, not '2'"), ("sold>0", "yes or no; compare"),
        ("sold=yes", "write true or false"), ("code<5", "is a text"), ("title in ,", "no value"),
        ('title in "a,b', "not closed"), ('title in "a"b,c', "not closed"),
        (Condition("n", "<", (1, 2)), "give one value, or several with in"), (Condition("n", "in", ()), "give one"),
        (Condition("price", "==", True), "'true' is none"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(condition, words):
    with pytest.raises(UsageError, match=words):
        compiled(condition)


def test_types_hold_from_the_file_of_fields_to_the_requests_of_a_server(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    codes = {"a.png": "007", "b.png": "7", "c.png": "x,y"}
    (tmp_path / "photos").mkdir()
    for name, image in zip(codes, tiny_images(3), strict=True):
        image.save(tmp_path / "photos" / name)
    lines = [
        {"name": name, "code": code, "n": index, "sold": index == 1} for index, (name, code) in enumerate(codes.items())
    ]
    (tmp_path / "fields.jsonl").write_text("\n".join(map(json.dumps, lines)))
    network, processor = load_model(tmp_path / "model")
    build_index(
        [tmp_path / "photos"],
        tmp_path / "index",
        R2D2Stages(network, processor, source=tmp_path / "model"),
        fields=tmp_path / "fields.jsonl",
    )
    cases: list[tuple[object, set[str]]] = [
        ("code=007", {"a.png"}), ("code=7", {"b.png"}), ('code="007"', {"a.png"}),
        ('code in "x,y",7', {"b.png", "c.png"}), ("code!=7", {"a.png", "c.png"}),
        ("n=01", {"b.png"}), ("n>=1.0", {"b.png", "c.png"}), ("sold=True", {"b.png"}),
        ({"field": "code", "comparison": "==", "value": 7}, {"b.png"}),
        ({"field": "code", "comparison": "==", "value": "007"}, {"a.png"}),
        ({"field": "code", "comparison": "in", "value": ["x,y", "7"]}, {"b.png", "c.png"}),
        ({"field": "n", "comparison": "==", "value": "1"}, {"b.png"}),
        ({"field": "sold", "comparison": "==", "value": False}, {"a.png", "c.png"}),
    ]  # fmt: skip
    with open_engine(tmp_path / "index") as engine:
        app = make_app(ModelWork(R2D2Stages(network, processor)), engine)
        for where, names in cases:
            result = post(app, "/search", {"text": TEXTS[0], "where": [where]}).json()
            assert {hit["name"] for hit in result["hits"]} == names, where
        for value, comparison in ((["1", "2"], "<"), ("x", "=="), (True, "==")):
            where = {"field": "n", "comparison": comparison, "value": value}
            assert post(app, "/search", {"text": TEXTS[0], "where": [where]}).status_code == 422
