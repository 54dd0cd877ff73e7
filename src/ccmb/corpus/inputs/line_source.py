"""JSON lines and delimited text as a source of Daft. A damaged line loses only itself.

Daft's own readers end at the first line that is not UTF-8 or not JSON. A log of terabytes always has such a line.
Files are read in ranges of bytes, in parallel. Arrow parses a block of lines if all of it is sound. Otherwise the block
is parsed line by line, with the same result.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.json as arrow_json
from daft import Schema
from daft.io.pushdowns import Pushdowns
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.text.files import open_utf8
from ccmb.core.text.forms import GB18030, UTF8
from ccmb.corpus.base.daft_engine import note_failure
from ccmb.corpus.inputs.delimited import BOM, csv_values, tab_values
from ccmb.corpus.inputs.records import TableKind, ValueKind, value_of
from ccmb.data.shards.remote import open_file

RANGE, BLOCK, LONGEST_LINE = 256 << 20, 8 << 20, 1 << 20
LONGEST_ARRAY, _ROWS = 512 << 20, 20_000
ARROW_TYPES: dict[ValueKind, pa.DataType] = {
    "text": pa.large_string(), "integer": pa.int64(), "number": pa.float64(), "time": pa.int64(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LineFile:
    """A file of lines.

    Attributes:
        separator: what stands between the fields; None for JSON lines.
        keys: the key of each field of a delimited file; empty for JSON lines.
        header: whether the first line names the fields.
        bytes: the size. None if the file is packed, or if its encoding does not allow a cut at any byte; such a file is
            read from its beginning to its end.
        codec: UTF-8 or GB18030, if the file has a size.
        array: whether the file is one JSON array of objects instead of JSON lines.
    """

    path: str
    separator: str | None = None
    keys: tuple[str, ...] = ()
    header: bool = False
    bytes: int | None = None
    codec: str = UTF8
    array: bool = False


class LineSource(DataSource):
    """The lines of files as rows of a kind. A value that cannot be read is null; a damaged line is a row of nulls."""

    def __init__(self, files: list[LineFile], kind: TableKind) -> None:
        self.files, self.kind = files, kind

    @property
    def name(self) -> str:
        return "LineSource"

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(arrow_schema(self.kind))

    async def get_tasks(self, pushdowns: Pushdowns) -> AsyncIterator[DataSourceTask]:
        for file in self.files:
            size = file.bytes
            for start in range(0, max(1, size or 1), RANGE):
                yield LineTask(file, self.kind, start, None if size is None else start + RANGE)


@dataclass(frozen=True, slots=True)
class LineTask(DataSourceTask):
    """The lines of a file that begin in a range of its bytes."""

    file: LineFile
    kind: TableKind
    start: int
    end: int | None

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(arrow_schema(self.kind))

    async def read(self) -> AsyncIterator[RecordBatch]:
        try:
            for table in tables(self.file, self.kind, self.start, self.end):
                for batch in table.to_batches():
                    yield RecordBatch.from_arrow_record_batches([batch], table.schema)
        except (CcmbError, OSError) as error:
            failure = error if isinstance(error, CcmbError) else CcmbError(f"{self.file.path}: {one_line(error)}")
            note_failure(failure)
            raise failure from None


def arrow_schema(kind: TableKind) -> pa.Schema:
    return pa.schema([(column.name, ARROW_TYPES[column.kind]) for column in kind.columns])


def tables(file: LineFile, kind: TableKind, start: int = 0, end: int | None = None) -> Iterator[pa.Table]:
    """The rows of the lines that begin in the range, block by block."""
    with open_file(file.path) if file.bytes is not None else open_lines(file.path) as opened:
        if file.array:
            yield from _in_tables(_array_values(opened, file.path), kind)
        elif file.separator == ",":
            values = csv_values(opened, file.keys, start, end if file.bytes is not None else None, file.codec)
            yield from _in_tables(itertools.islice(values, int(file.header and start == 0), None), kind)
        else:
            for block in _clean_blocks(opened, file, start, end):
                if file.separator is None:
                    yield json_rows(block, kind)
                else:
                    yield rows_of(tab_values(block, file.keys), kind)


def _clean_blocks(opened: IO[bytes], file: LineFile, start: int, end: int | None) -> Iterator[bytes]:
    """Blocks of UTF-8 without byte order mark and header, whose lines end with LF or CRLF."""
    for block in blocks(opened, start, end):
        if file.codec == GB18030:
            block = block.decode(GB18030, "replace").encode()
        if start == 0:
            block, start = block.removeprefix(BOM), 1
            if file.header:
                block = block.partition(b"\n")[2]
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block


def _in_tables(values: Iterator[dict[str, Any]], kind: TableKind) -> Iterator[pa.Table]:
    while taken := list(itertools.islice(values, _ROWS)):
        yield rows_of(iter(taken), kind)


def _array_values(opened: IO[bytes], path: str) -> Iterator[dict[str, Any]]:
    data = opened.read(LONGEST_ARRAY + 1)
    if len(data) > LONGEST_ARRAY:
        raise CcmbError(f"{path}: a JSON array of more than {LONGEST_ARRAY >> 20} MiB; write it as JSON lines")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CcmbError(f"{path}: not valid JSON ({one_line(error)})") from None
    return (value if isinstance(value, dict) else {} for value in values)


def open_lines(path: str) -> IO[bytes]:
    """The bytes of a local or remote file, unpacked, in UTF-8 and without byte order mark.

    Raises:
        CcmbError: it cannot be read; the message names it.
    """
    return open_utf8(path, open_file(path))


def blocks(opened: IO[bytes], start: int, end: int | None) -> Iterator[bytes]:
    """Whole lines that begin at `start` or later and before `end`, some megabytes at a time."""
    at = start
    if start:
        opened.seek(start - 1)
        at += len(opened.readline()) - 1
    while end is None or at < end:
        size = BLOCK if end is None else min(BLOCK, end - at)
        block = opened.read(size)
        if not block:
            return
        if not block.endswith(b"\n"):
            block += opened.readline()
        at += len(block)
        yield block


def json_rows(block: bytes, kind: TableKind) -> pa.Table:
    """Rows of JSON lines."""
    table = _by_arrow(block, kind)
    return table if table is not None else rows_of(_json_values(block), kind)


def _by_arrow(block: bytes, kind: TableKind) -> pa.Table | None:
    """The rows of a block whose values all have the plain type of their column; None for any other block."""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    # Arrow crashes on a first line of `null`, reads two objects of a line as two rows, and takes lone surrogates.
    if (
        not block.startswith(b"{")
        or block.count(b"\n{") != lines - 1
        or any(len(column.keys) > 1 for column in kind.columns)
    ):
        return None
    keys = {column.keys[0]: ARROW_TYPES[column.kind] for column in kind.columns}
    try:
        block.decode()
        table = arrow_json.read_json(
            io.BytesIO(block),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema(keys), unexpected_field_behavior="ignore"),
        )
        columns = [table.column(column.keys[0]) for column in kind.columns]
        plain = table.num_rows == lines and _texts_are_plain(table, kind)
        return pa.table(columns, schema=arrow_schema(kind)) if plain else None
    except (pa.ArrowException, KeyError, UnicodeDecodeError):
        return None


def _texts_are_plain(table: pa.Table, kind: TableKind) -> bool:
    """Whether no text is blank. A blank text counts as null."""
    import pyarrow.compute as compute

    for column in kind.columns:
        if column.kind == "text":
            lengths = compute.utf8_length(compute.utf8_trim_whitespace(table.column(column.keys[0])))
            if compute.any(compute.equal(lengths, 0)).as_py():
                return False
    return True


def _json_values(block: bytes) -> Iterator[dict[str, Any]]:
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode()) if len(line) <= LONGEST_LINE else None
        except (ValueError, RecursionError):
            value = None
        yield value if isinstance(value, dict) else {}


def rows_of(lines: Iterator[dict[str, Any]], kind: TableKind) -> pa.Table:
    """The rows of lines that are dictionaries by key."""
    values: list[list[Any]] = [[] for _ in kind.columns]
    for line in lines:
        for column, into in zip(kind.columns, values, strict=True):
            key = next((key for key in column.keys if key in line), None)
            into.append(None if key is None else value_of(column.kind, line[key]))
    return pa.table(values, schema=arrow_schema(kind))
