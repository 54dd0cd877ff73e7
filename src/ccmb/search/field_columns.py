"""Fields of many images as columns, so that a filter is a few operations on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccmb.search.filters import holds_for
from ccmb.search.query import FieldValue, NumberTest, Test


class NumberColumn:
    """Numbers, NaN where an image has none."""

    def __init__(self) -> None:
        self._values: NDArray[np.float64] = np.empty(0)

    def reserve(self, capacity: int) -> None:
        self._values = _grown(self._values, capacity, np.nan)

    def put(self, row: int, value: FieldValue | None) -> None:
        self._values[row] = np.nan if value is None or isinstance(value, str) else float(value)

    def fill(self, start: int, values: Sequence[Any]) -> None:
        self._values[start : start + len(values)] = np.array(values, dtype=np.float64)  # None becomes NaN

    def move(self, row: int, to: int) -> None:
        self._values[to] = self._values[row]

    def mask(self, test: Test, count: int) -> NDArray[np.bool_]:
        """(N,) True for each of the first `count` rows that passes."""
        assert isinstance(test, NumberTest)
        values = self._values[:count]
        passed = np.zeros(count, dtype=bool)
        for low, high in test.ranges:
            passed |= (values >= low) & (values < high)
        return (~passed if test.negated else passed) & ~np.isnan(values)


class TextColumn:
    """Texts as codes of a dictionary, -1 where an image has none. Texts that no row has any more stay in it."""

    def __init__(self) -> None:
        self._codes: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._words: list[str] = []
        self._code_of: dict[str, int] = {}

    def reserve(self, capacity: int) -> None:
        self._codes = _grown(self._codes, capacity, -1)

    def put(self, row: int, value: FieldValue | None) -> None:
        self._codes[row] = self._code(value)

    def fill(self, start: int, values: Sequence[FieldValue | None]) -> None:
        self._codes[start : start + len(values)] = [self._code(value) for value in values]

    def _code(self, value: FieldValue | None) -> int:
        if value is None:
            return -1
        word = str(value)
        code = self._code_of.setdefault(word, len(self._words))
        if code == len(self._words):
            self._words.append(word)
        return code

    def move(self, row: int, to: int) -> None:
        self._codes[to] = self._codes[row]

    def mask(self, test: Test, count: int) -> NDArray[np.bool_]:
        """(N,) True for each of the first `count` rows that passes."""
        assert not isinstance(test, NumberTest)
        if test.under:
            holds = holds_for(test)
            passing = [code for code, word in enumerate(self._words) if holds(word)]
        else:
            passing = [self._code_of[word] for word in set(test.values) if word in self._code_of]
        table = np.zeros(len(self._words) + 1, dtype=bool)  # the last is for those without
        table[passing] = True
        if test.negated:
            table = ~table
        table[-1] = False
        return table[self._codes[:count]]


class Columns:
    """All fields of the rows of a table."""

    def __init__(self) -> None:
        self._columns: dict[str, NumberColumn | TextColumn] = {}
        self._capacity = 0

    def reserve(self, capacity: int) -> None:
        self._capacity = capacity
        for column in self._columns.values():
            column.reserve(capacity)

    def put(self, row: int, fields: Mapping[str, FieldValue]) -> None:
        """Set all fields of a row; it has no others."""
        for name, value in fields.items():
            self._column(name, value)
        for name, column in self._columns.items():
            column.put(row, fields.get(name))

    def fill(self, start: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """Set fields of new rows from `start` on; None where one has none."""
        for name, values in columns.items():
            value = next((value for value in values if value is not None), None)
            if value is not None:
                self._column(name, value).fill(start, values)

    def _column(self, name: str, value: FieldValue) -> NumberColumn | TextColumn:
        if name not in self._columns:
            self._columns[name] = TextColumn() if isinstance(value, str) else NumberColumn()
            self._columns[name].reserve(self._capacity)
        return self._columns[name]

    def move(self, row: int, to: int) -> None:
        for column in self._columns.values():
            column.move(row, to)

    def mask(self, tests: Sequence[Test], count: int) -> NDArray[np.bool_]:
        """(N,) True for each of the first `count` rows that passes all tests."""
        passed = np.ones(count, dtype=bool)
        for test in tests:
            column = self._columns.get(test.field)
            passed &= column.mask(test, count) if column is not None else False
        return passed


def _grown(values: NDArray[Any], capacity: int, empty: float) -> NDArray[Any]:
    grown = np.full(capacity, empty, dtype=values.dtype)
    grown[: len(values)] = values
    return grown
