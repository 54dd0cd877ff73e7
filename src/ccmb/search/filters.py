"""Filters: conditions as users write them, compiled to tests of columns and to expressions of Milvus.

An image that lacks a field passes no condition on it, not even "!=", as in SQL.
"""

from __future__ import annotations

import calendar
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from ccmb.core.errors import UsageError, did_you_mean
from ccmb.search.query import Comparison, Condition, FieldValue, NumberTest, Test, TextTest

# Stores also have "source", which users do not need: folders within it are found by "folder".
BUILT_IN: Mapping[str, type] = {"folder": str, "date": str, "width": int, "height": int, "bytes": int}
_FORM = re.compile(
    r"\s*(?P<field>[^\s=!<>]+)\s*(?:(?P<sign>==|!=|<=|>=|=|<|>)|\b(?P<word>in|under)\b)(?P<value>.*)", re.S
)
_PART = re.compile(r'"(?:[^"]|"")*"\s*(?=,|$)|[^",][^,]*', re.S)  # of a list
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DATE = re.compile(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?)(?:[T ](\d\d?):(\d\d)(?::(\d\d))?)?)?)?")


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def parse_condition(text: str) -> Condition:
    """Parse a condition such as `width>=800`, `folder under 2024/夏天`, `author in 王,"李,张"` or `title="1984"`.

    The type of the field decides how a value is read (see `compile_conditions`), so `code=007` stays "007" if `code` is
    a text. Double quotes keep commas and blanks of a value; a double quote within them is written twice.

    Raises:
        UsageError: the text is not a condition.
    """
    match = _FORM.fullmatch(text)
    value = match["value"].strip() if match else ""
    if match is None or not value:
        raise UsageError(
            f"{text!r} is not a condition; write one such as width>=800, date<2024-05, author in 王,李 or "
            "folder under 2024/夏天"
        )
    sign = match["word"] or match["sign"]
    comparison: Comparison = "==" if sign == "=" else sign  # type: ignore[assignment]
    if comparison == "in":
        return Condition(match["field"], "in", _list_of(value))
    return Condition(match["field"], comparison, _unquoted(value) or value if comparison == "under" else _value(value))


def _list_of(text: str) -> tuple[FieldValue, ...]:
    """The values between commas; a value in double quotes may contain commas.

    Raises:
        UsageError: there is no value, or a quote is not closed.
    """
    values, remaining = list[FieldValue](), text
    while remaining := remaining.strip().removeprefix(",").lstrip():
        part = _PART.match(remaining)
        if part is None:
            raise UsageError(f"{text!r}: a double quote is not closed, or is followed by more than a comma")
        if part[0].strip():
            values.append(_value(part[0].strip()))
        remaining = remaining[part.end() :]
    if not values:
        raise UsageError(f"{text!r}: no value; write such as author in 王,李")
    return tuple(values)


def _value(text: str) -> FieldValue:
    """A value as number, true or false if it is written exactly as Python prints it; otherwise as text.

    "007" and "1e3" stay texts; `_point` reads them as numbers if the field is a number.
    """
    if (quoted := _unquoted(text)) is not None:
        return quoted
    if text in ("true", "false"):
        return text == "true"
    number = number_of(text)
    if number is None:
        return text
    integer = int(number) if number.is_integer() else number
    return next((value for value in (integer, number) if str(value) == text), text)


def _unquoted(text: str) -> str | None:
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else None


def number_of(text: str) -> float | None:
    """The finite number that a text stands for, with digits of any width; None if it is not a number."""
    plain = unicodedata.normalize("NFKC", text).strip()
    number = float(plain) if _NUMBER.fullmatch(plain) else math.inf
    return number if math.isfinite(number) else None


def compile_conditions(
    where: Sequence[Condition], known: Mapping[str, type], sources: Iterable[str] = ()
) -> tuple[Test, ...]:
    """Compile conditions to tests.

    The type of a field decides how a value is read. Texts are compared as written, numbers by value, yes or no as true
    or false, and a date covers the whole year, month, day, minute or second that it names.

    Args:
        known: fields of the index and their types.
        sources: folders that a relative folder may be within.

    Raises:
        UsageError: the index has no such field, or its type does not allow the comparison; the message names it.
    """
    return tuple(_test_of(condition, known, sources) for condition in where)


def _test_of(condition: Condition, known: Mapping[str, type], sources: Iterable[str]) -> Test:
    name, comparison = condition.field, condition.comparison
    if name not in known:
        raise UsageError(
            f"{name}: the index has no such field{did_you_mean(name, list(known))}; it has: {', '.join(known)}"
        )
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    if not values or (len(values) > 1 and comparison in ("<", "<=", ">", ">=")):
        raise UsageError(f"{name} {comparison} ...: give one value" + (", or several with in" if values else ""))
    if comparison == "under":
        if known[name] is not str or name == "date":
            raise UsageError(f"{name} under ...: only folders have something under them")
        return TextTest(
            name, (), tuple(dict.fromkeys(folder for value in values for folder in _within(str(value), sources)))
        )
    if name == "date":
        return _compare(name, comparison, [_period(str(value)) for value in values])
    if known[name] is bool:
        if comparison not in ("==", "!=", "in"):
            raise UsageError(f"{name} {comparison} ...: {name} is yes or no; compare it by ==, != or in")
        return _compare(name, comparison, [_truth(name, value) for value in values])
    if known[name] is not str:
        return _compare(name, comparison, [_point(name, value) for value in values])
    if comparison not in ("==", "!=", "in"):
        raise UsageError(f"{name} {comparison} ...: {name} is a text; compare it by ==, != or in")
    return TextTest(name, tuple(map(_text, values)), negated=comparison == "!=")


def _text(value: FieldValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _within(folder: str, sources: Iterable[str]) -> list[str]:
    if folder.startswith("/") or "://" in folder:
        return [folder.rstrip("/") or "/"]
    inside = folder.strip("/").removeprefix("./")
    # The first stands for the folders of images that were handed to a running index, which lie in no source.
    return [inside, *(f"{source.rstrip('/')}/{inside}" for source in sources)]


def _point(name: str, value: FieldValue) -> tuple[float, float]:
    number = number_of(value) if isinstance(value, str) else None if isinstance(value, bool) else float(value)
    if number is None:
        raise UsageError(f"{name} is a number, and {_text(value)!r} is none")
    return number, math.nextafter(number, math.inf)


def _truth(name: str, value: FieldValue) -> tuple[float, float]:
    """The range of yes (1) or no (0), as stores hold them."""
    truth = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}.get(_text(value).strip().lower())
    if truth is None:
        raise UsageError(f"{name} is yes or no; write true or false, not {_text(value)!r}")
    return truth, math.nextafter(truth, math.inf)


def _period(value: str) -> tuple[float, float]:
    """Seconds from the beginning of a year, month, day, minute or second to its end."""
    match = _DATE.fullmatch(value.strip())
    try:
        if match is None:
            raise ValueError
        parts = [int(part) for part in match.groups() if part is not None]
        start = seconds_of(datetime(*(parts + [1, 1][len(parts) - 1 :])[: max(3, len(parts))]))  # type: ignore[arg-type]
    except ValueError:
        raise UsageError(f"{value!r} is not a date; write 2024, 2024-05, 2024-05-01 or 2024-05-01T18:30") from None
    year, month = parts[0], parts[1] if len(parts) > 1 else 1
    days = {1: 366 if calendar.isleap(year) else 365, 2: calendar.monthrange(year, month)[1]}.get(len(parts), 1)
    return start, start + (86400 * days if len(parts) < 4 else 60 if len(parts) == 5 else 1)


def seconds_of(date: datetime) -> int:
    """A date without time zone as seconds; only their order and distance mean something."""
    return int(date.replace(tzinfo=UTC).timestamp())


def iso_date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _compare(name: str, comparison: Comparison, spans: Sequence[tuple[float, float]]) -> NumberTest:
    if comparison in ("==", "!=", "in"):
        return NumberTest(name, tuple(spans), comparison == "!=")
    ((start, end),) = spans
    return NumberTest(
        name,
        {
            "<": ((-math.inf, start),),
            "<=": ((-math.inf, end),),
            ">": ((end, math.inf),),
            ">=": ((start, math.inf),),
        }[comparison],
    )


def expression(tests: Sequence[Test]) -> str:
    """The tests as a filter expression of Milvus."""
    return " and ".join(map(_expression, tests))


def _expression(test: Test) -> str:
    column = test.field if test.field in (*BUILT_IN, "source") else f"own[{_quoted(test.field)}]"
    if isinstance(test, NumberTest):
        parts = [_in_range(column, *bounds) for bounds in test.ranges]
    else:
        parts = [f"{column} == {_quoted(value)}" for value in test.values]
        parts += [_is_under(column, folder) for folder in test.under]
    either = " or ".join(f"({part})" for part in parts)
    return f"not ({either})" if test.negated else f"({either})"


def _is_under(column: str, folder: str) -> str:
    # Folders in /a/b begin with "/a/b/", and "0" follows "/" in ASCII. Unlike a pattern, a range needs no escapes.
    first, end = _slash(folder), _slash(folder)[:-1] + "0"
    return f"{column} == {_quoted(folder)} or ({column} >= {_quoted(first)} and {column} < {_quoted(end)})"


def _slash(folder: str) -> str:
    return folder if folder.endswith("/") else f"{folder}/"


def _in_range(column: str, low: float, high: float) -> str:
    if high == math.nextafter(low, math.inf):
        return f"{column} == {low!r}"
    bounds = [f"{column} >= {low!r}"] if low > -math.inf else []
    return " and ".join(bounds + ([f"{column} < {high!r}"] if high < math.inf else [])) or f"{column} == {column}"


def _quoted(text: str) -> str:
    """A text literal of Milvus, which does not know all of JSON's escapes."""
    return f'"{text.translate(_ESCAPES)}"'


def holds_for(test: TextTest) -> Callable[[str], bool]:
    """A function that says whether a text is among the values or folders of a test, before negation."""
    values, prefixes = set(test.values) | set(test.under), tuple(map(_slash, test.under))
    return lambda value: value in values or (bool(prefixes) and value.startswith(prefixes))
