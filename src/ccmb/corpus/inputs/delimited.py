"""CSV by RFC 4180, read in ranges of bytes, and lines of tabs. A damaged line loses only itself.

A quoted field may hold line breaks. So a record goes on as long as its quotes do not balance. If it never closes, or
closes with another number of fields, its first line is damaged, and the lines after it are read again.

A range may begin inside a file. It then starts at the first line from which several records are faultless. A line
within a quoted field is no such start: sooner or later a quote follows it that no faultless record has.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from ccmb.core.text.tables import split_tabs

LONGEST_RECORD = 1 << 20  # bytes; if quotes do not close within so many, the line counts as damaged
BOM = b"\xef\xbb\xbf"
_WINDOW, _TRIED, _FAULTLESS, _BLOCK = 1 << 18, 256, 4, 1 << 20
_FIELD = rb'(?>"(?:[^"]|"")*+"|[^",\r\n]*+)'
_RECORD = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+\r?\n")


def csv_values(
    opened: IO[bytes], keys: tuple[str, ...], start: int, end: int | None, codec: str = "utf-8"
) -> Iterator[dict[str, Any]]:
    """The records that begin in a range of bytes, as dictionaries by key; an empty one for each damaged line.

    Args:
        end: where the range ends; None reads a stream from its beginning, where it stands, to its end.
    """
    at, stop = 0, None
    if end is not None:
        stop = _begin(opened, end, len(keys))
        at = _begin(opened, start, len(keys)) if start else 0
        opened.seek(at)
    source = _Source(opened, at, stop)
    while block := source.block():
        quick = _quick(block, len(keys), codec)
        for fields in quick or csv_records(_lines_of(block), len(keys), codec, source.lines()):
            yield dict(zip(keys, fields, strict=True)) if fields is not None else {}


def csv_records(
    lines: Iterator[bytes], width: int, codec: str = "utf-8", more: Iterator[bytes] = iter(())
) -> Iterator[list[str] | None]:
    """Records of `width` fields each, and None for each damaged line.

    Args:
        more: lines after `lines`, read only if the last record goes on in them.
    """
    pending: deque[bytes] = deque()
    further = chain(lines, more)
    while (line := pending.popleft() if pending else next(lines, None)) is not None:
        if not line.strip():
            continue
        fields, taken, size, quotes = _fields(line, width, codec), [line], len(line), line.count(b'"')
        while fields is None and quotes % 2 and size <= LONGEST_RECORD:
            if (next_line := pending.popleft() if pending else next(further, None)) is None:
                break
            taken.append(next_line)
            size, quotes = size + len(next_line), quotes + next_line.count(b'"')
        if len(taken) > 1:
            fields = _fields(b"".join(taken), width, codec)
            if fields is None:
                pending.extendleft(reversed(taken[1:]))
        yield fields


def _quick(block: bytes, width: int, codec: str) -> list[list[str]] | None:
    """The records of a block, or None if any of them is damaged."""
    try:
        rows = list(csv.reader(io.StringIO(block.decode(codec), newline=""), strict=True))
    except (ValueError, csv.Error):
        return None
    rows = [row for row in rows if row]
    return rows if all(len(row) == width for row in rows) else None


def tab_values(block: bytes, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The lines of a block as dictionaries by key; an empty one for a line with another number of fields."""
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        try:
            fields = split_tabs(line.decode().rstrip("\r"))
        except ValueError:
            fields = []
        yield dict(zip(keys, fields, strict=True)) if len(fields) == len(keys) else {}


def _fields(record: bytes, width: int, codec: str) -> list[str] | None:
    try:
        text = record.decode(codec).rstrip("\r\n")
        rows = list(csv.reader(io.StringIO(text, newline="") if "\n" in text else [text], strict=True))
    except (ValueError, csv.Error):
        return None
    return rows[0] if len(rows) == 1 and len(rows[0]) == width else None


def _lines_of(block: bytes) -> Iterator[bytes]:
    """Lines with their ends. A CR alone ends a line too, unless quotes may enclose it."""
    for line in block.split(b"\n"):
        if b"\r" in line[:-1] and b'"' not in line:
            yield from line.splitlines(keepends=True)  # of bytes: at CR, LF and CRLF alone
        else:
            yield line + b"\n"


class _Source:
    """The bytes between two positions of a file, as blocks of whole lines or as single lines."""

    def __init__(self, opened: IO[bytes], at: int, stop: int | None) -> None:
        self._opened, self._at, self._stop = opened, at, stop

    def block(self) -> bytes:
        """The next block of whole lines; empty at the end."""
        size = _BLOCK if self._stop is None else min(_BLOCK, self._stop - self._at)
        block = self._opened.read(max(0, size))
        if block and not block.endswith(b"\n"):
            block += self._opened.readline()
        is_first, self._at = self._at == 0, self._at + len(block)
        return block.removeprefix(BOM) if is_first else block

    def lines(self) -> Iterator[bytes]:
        while (self._stop is None or self._at < self._stop) and (line := self._opened.readline()):
            self._at += len(line)
            yield line


def _begin(opened: IO[bytes], at: int, width: int) -> int:
    """The position of the first record at `at` or later, as far as the bytes show it."""
    opened.seek(at - 1)
    window = opened.read(_WINDOW)
    first = window.find(b"\n") + 1
    if not first:
        return at - 1 + len(window) + len(opened.readline())
    position = first
    for _ in range(_TRIED):
        if not position:
            break
        if _is_faultless(window, position, width):
            return at - 1 + position
        position = window.find(b"\n", position) + 1
    return at - 1 + first


def _is_faultless(window: bytes, position: int, width: int) -> bool:
    """Whether the next records from a position are faultless, or as many of them as the window holds in full."""
    for _ in range(_FAULTLESS):
        match = _RECORD.match(window, position)
        if match is None:
            return b"\n" not in window[position:]
        if match[0].strip() and _fields(match[0], width, "latin-1") is None:
            return False
        position = match.end()
    return True
