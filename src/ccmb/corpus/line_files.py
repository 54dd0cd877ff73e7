"""JSON lines and delimited text as a source of Daft, in which a damaged line costs itself alone.

Daft's own readers end at the first line that is not UTF-8 or not JSON, which in logs of terabytes there always is.
Files are read in ranges of bytes, side by side. A block of lines is parsed by Arrow where all of it is as it should be,
and line by line where not, with the same result.
"""

from __future__ import annotations

import csv
import io
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

from ccmb.corpus.records import Kind, ValueKind, value_of
from ccmb.data.remote_files import open_file

RANGE, BLOCK, LONGEST_LINE = 256 << 20, 8 << 20, 1 << 20
ARROW_TYPES: dict[ValueKind, pa.DataType] = {
    "text": pa.large_string(), "integer": pa.int64(), "number": pa.float64(), "time": pa.int64(),
}  # fmt: skip
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineFile:
    """A file of lines.

    Attributes:
        separator: None for JSON lines, else what stands between the fields.
        keys: of a delimited file, the key of each field; empty for JSON lines.
        header: whether the first line names the fields.
        bytes: its size; None of a compressed one, which is read from its beginning to its end.
    """

    path: str
    separator: str | None = None
    keys: tuple[str, ...] = ()
    header: bool = False
    bytes: int | None = None


class LineSource(DataSource):
    """The lines of files as rows of a kind; a value that cannot be read is null, and so is all of a damaged line."""

    def __init__(self, files: list[LineFile], kind: Kind) -> None:
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
    kind: Kind
    start: int
    end: int | None

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(arrow_schema(self.kind))

    async def read(self) -> AsyncIterator[RecordBatch]:
        for table in tables(self.file, self.kind, self.start, self.end):
            for batch in table.to_batches():
                yield RecordBatch.from_arrow_record_batches([batch], table.schema)


def arrow_schema(kind: Kind) -> pa.Schema:
    return pa.schema([(column.name, ARROW_TYPES[column.kind]) for column in kind.columns])


def tables(file: LineFile, kind: Kind, start: int = 0, end: int | None = None) -> Iterator[pa.Table]:
    """The rows of the lines that begin in the range, block by block."""
    with open_lines(file.path) as opened:
        for block in blocks(opened, start, end):
            if start == 0:
                block, start = block.removeprefix(BOM), 1
                if file.header:
                    block = block.partition(b"\n")[2]
            if file.separator is None:
                yield json_rows(block, kind)
            else:
                yield rows_of(delimited_values(block, file.separator, file.keys), kind)


def open_lines(path: str) -> IO[bytes]:
    """The bytes of a local or remote file, decompressed if its name ends in .gz.

    Raises:
        CcmbError: it cannot be read; the message names it.
    """
    opened = open_file(path)
    if not path.endswith(".gz"):
        return opened
    import gzip

    return gzip.open(opened)  # type: ignore[return-value]


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


def json_rows(block: bytes, kind: Kind) -> pa.Table:
    """Rows of JSON lines."""
    found = _by_arrow(block, kind)
    return found if found is not None else rows_of(_json_values(block), kind)


def _by_arrow(block: bytes, kind: Kind) -> pa.Table | None:
    """Rows of a block all of whose values are of the plain type of their column, or None of any other."""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    # Arrow crashes on a first line of `null`, reads two objects of a line as two rows, and takes lone surrogates.
    if not block.startswith(b"{") or block.count(b"\n{") != lines - 1 or any(len(of.keys) > 1 for of in kind.columns):
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


def _texts_are_plain(table: pa.Table, kind: Kind) -> bool:
    """Whether no text is blank; such a one is null."""
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


def delimited_values(block: bytes, separator: str, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Lines with another number of fields are damaged; commas may stand between quotes, tabs may not."""
    quoted = separator == ","
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        try:
            text = line.decode().rstrip("\r")
            fields = next(csv.reader([text], delimiter=separator, strict=True)) if quoted else text.split(separator)
        except (ValueError, csv.Error, StopIteration):
            fields = []
        yield dict(zip(keys, fields, strict=True)) if len(fields) == len(keys) else {}


def rows_of(lines: Iterator[dict[str, Any]], kind: Kind) -> pa.Table:
    """Rows of lines by their keys."""
    values: list[list[Any]] = [[] for _ in kind.columns]
    for line in lines:
        for column, into in zip(kind.columns, values, strict=True):
            key = next((key for key in column.keys if key in line), None)
            into.append(None if key is None else value_of(column.kind, line[key]))
    return pa.table(values, schema=arrow_schema(kind))
