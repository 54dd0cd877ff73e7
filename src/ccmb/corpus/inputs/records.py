"""The columns of logs, pages and link lists, their names in files, and how values are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

ValueKind = Literal["text", "integer", "number", "time"]
INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: the name in our tables.
        keys: names in files; the first one that a file has is read.
        needed: a row without this column is damaged. A file without it is refused.
        least, most: bounds of an integer; a row outside them is damaged.
    """

    name: str
    keys: tuple[str, ...]
    kind: ValueKind = "text"
    needed: bool = False
    lowest: int | None = None
    highest: int | None = None


@dataclass(frozen=True, slots=True)
class TableKind:
    """A kind of table."""

    name: str
    columns: tuple[Column, ...]

    @property
    def needed(self) -> str:
        return ", ".join(column.keys[0] for column in self.columns if column.needed)


IMPRESSIONS = TableKind(
    "impressions",
    (
        Column("query", ("query",), needed=True),
        Column("image_url", ("image_url",), needed=True),
        Column("page_url", ("page_url",)),
        Column("position", ("position",), "integer", needed=True, lowest=1, highest=2**31 - 1),
        Column("clicked", ("clicked",), "integer", needed=True, lowest=0, highest=1),
        Column("visitor", ("visitor",)),
        Column("time", ("time",), "time"),
    ),
)
# The keys of a record of Zero (zero.so.com/detail.html).
PAGES = TableKind(
    "pages",
    (
        Column("page_url", ("Url",)),
        Column("title", ("Title",)),
        Column("content", ("Content",)),
        Column("keywords", ("Keywords",)),
        Column("image_url", ("ImageUrl",), needed=True),
        Column("image_key", ("ImageKey",)),
        Column("query", ("ImageQuery",)),
        Column("score", ("score",), "number"),
    ),
)
# Wukong has dir, url and caption, LAION's kin URL and TEXT; a list without a header has a URL and a text.
LINKS = TableKind(
    "links",
    (
        Column("image_url", ("url", "URL", "image_url", "ImageUrl"), needed=True),
        Column("caption", ("caption", "CAPTION", "text", "TEXT", "title"), needed=True),
        Column("score", ("score",), "number"),
    ),
)


def value_of(kind: ValueKind, value: Any) -> Any:
    """The value as its kind, or None if it is of another kind.

    Texts must not be blank. Integers may be written as floats, texts or booleans. Times are seconds since 1970 or
    ISO 8601, in UTC unless they name another zone.
    """
    if kind == "text":
        return _text(value)
    if kind == "time" and isinstance(value, str) and not _is_number(value):
        return _seconds(value)
    try:
        numeric = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(numeric):
        return None
    if kind == "number":
        return numeric
    if abs(numeric) >= INT64 or (kind == "integer" and not numeric.is_integer()):
        return None
    return math.floor(numeric)


def _text(value: Any) -> str | None:
    """The text; None if it is blank or holds lone surrogates, which JSON can escape but UTF-8 cannot hold."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
