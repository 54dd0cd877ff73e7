"""Conditions are read by the type of the field: texts as texts, numbers as numbers, yes or no, and dates."""

import math

import pytest

from ccmb.errors import UsageError
from ccmb.search.conditions import Numbers, Words, compile_conditions, parse_condition
from ccmb.search.query import Condition

KNOWN = {"code": str, "title": str, "n": int, "price": float, "sold": bool, "date": str, "folder": str}


def compiled(*where: str | Condition):
    conditions = [parse_condition(of) if isinstance(of, str) else of for of in where]
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
    assert compiled(text) == (Words("code", tuple(values)),)


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
    assert compiled(text) == (Words("title", tuple(values)),)


def test_numbers_are_numbers_however_they_are_written():
    seven = Numbers("n", ((7.0, math.nextafter(7.0, math.inf)),))
    for value in (7, "7", "007", "7.0", "７"):
        assert compiled(Condition("n", "==", value)) == (seven,)
    assert compiled("n=007") == compiled("n=7") == compiled('n="7"') == (seven,)
    assert compiled("price>=1e2") == (Numbers("price", ((100.0, math.inf),)),)
    assert compiled("price<0.50") == (Numbers("price", ((-math.inf, 0.5),)),)


def test_yes_or_no_is_true_or_false():
    yes = Numbers("sold", ((1.0, math.nextafter(1.0, math.inf)),))
    for value in (True, 1, "true", "True"):
        assert compiled(Condition("sold", "==", value)) == (yes,)
    assert compiled("sold=true") == compiled("sold==1") == (yes,)


def test_dates_are_spans_of_time():
    assert compiled("date=2024-02") == (Numbers("date", ((1706745600, 1709251200),)),)  # 29 days
    assert compiled(Condition("date", "<", 2024)) == (Numbers("date", ((-math.inf, 1704067200),)),)


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
