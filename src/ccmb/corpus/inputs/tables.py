"""Files of logs, pages and links as tables of Daft. Damaged rows are marked and counted; they raise no error."""

from __future__ import annotations

import csv
import functools
import json
import logging
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import daft
import pyarrow as pa
import pyarrow.parquet as parquet
from daft import DataFrame, DataType, Expression, col
from daft import functions as F
from pydantic import Field, model_validator

from ccmb.core.config.base import ConfigBase
from ccmb.core.errors import CcmbError, did_you_mean, one_line
from ccmb.core.logs import BARE
from ccmb.core.passed_over import Excludes, PassedOver
from ccmb.core.text.tables import TextTable, name_key
from ccmb.corpus.base.daft_engine import union
from ccmb.corpus.inputs.input_files import files_of, find_files, suffix_of
from ccmb.corpus.inputs.line_forms import as_array, first_lines, first_of_array, inspect_line_file
from ccmb.corpus.inputs.line_source import LineFile, LineSource
from ccmb.corpus.inputs.records import LINKS, Column, TableKind, value_of
from ccmb.data.shards.remote import is_remote, open_file

_LOG = logging.getLogger(__name__)

__all__ = ["InputTable", "Inputs", "find_files", "read_test_texts"]
_BYTES_OF_A_LINE = 150  # a guess; only the number of buckets depends on it


class Inputs(ConfigBase):
    """Where the records of a corpus lie: any number of files, folders, globs or URLs, of JSON lines or Parquet."""

    impressions: list[str] = Field([], description="logs: query, image_url, page_url, position, clicked, visitor, time")
    pages: list[str] = Field([], description="Url, Title, Content, Keywords, ImageUrl, ImageKey, ImageQuery")
    links: list[str] = Field([], description="released lists of links with captions; also .csv, .tsv and .txt")
    test_texts: list[str] = Field(
        [], description="texts that no pair may have: one in each line, or JSON lines with `text`"
    )

    exclude: list[str] = Field([], description="patterns of files that are passed over, such as '*.bak.jsonl' or tmp")

    @model_validator(mode="after")
    def _something(self) -> Inputs:
        if not (self.impressions or self.pages or self.links):
            raise ValueError("give impressions, pages or links")
        return self


class InputTable:
    """All files of one kind."""

    def __init__(self, kind: TableKind, sources: Sequence[str], exclude: Sequence[str] = ()) -> None:
        """Find the files and check their columns. Files that are passed over are reported on stderr.

        Args:
            exclude: see `Excludes`.

        Raises:
            CcmbError: a source has no file, or a file cannot be read or lacks a column; the message names it.
        """
        self.kind, self.passed_over = kind, PassedOver()
        self.files = files_of(sources, self.passed_over, Excludes(exclude))
        if self.passed_over:
            _LOG.warning("%s: %s", kind.name, self.passed_over, extra=BARE)
        self.parquet = {path: _check_parquet(path, kind) for path in self.files if _is_parquet(path)}
        self.lines = {path: _line_file(path, kind) for path in self.files if path not in self.parquet}

    def rows(self) -> int:
        """About how many rows there are; exact for Parquet."""
        return sum(map(self._rows_of, self.files))

    def _rows_of(self, path: str) -> int:
        about = self.parquet.get(path)
        if about is not None:
            return int(about.num_rows)
        return (self.lines[path].bytes or 10 * _BYTES_OF_A_LINE) // _BYTES_OF_A_LINE

    def sizes(self) -> list[tuple[str, int]]:
        """Path and size of each file, to recognise whether the files are still the same."""
        return [(path, os.path.getsize(path) if not is_remote(path) else -1) for path in self.files]

    def read(self) -> DataFrame:
        """The columns of the kind, and `damaged`: whether a needed value is missing or outside its bounds."""
        return self._read(self.files)

    def parts(self, rows: int) -> Iterator[DataFrame]:
        """The same columns in parts of whole files with about `rows` rows each.

        Daft holds as many files as it reads in parallel.
        """
        taken: list[str] = []
        held = 0
        for path in self.files:
            if taken and held + self._rows_of(path) > rows:
                yield self._read(taken)
                taken, held = [], 0
            taken.append(path)
            held += self._rows_of(path)
        yield self._read(taken)

    def _read(self, files: Sequence[str]) -> DataFrame:
        lines = [self.lines[path] for path in files if path in self.lines]
        frames = [LineSource(lines, self.kind).read()] if lines else []
        by_columns: dict[str, list[str]] = {}
        for path in files:
            if path in self.parquet:
                columns = str(self.parquet[path].schema.to_arrow_schema().remove_metadata())
                by_columns.setdefault(columns, []).append(path)
        for paths in by_columns.values():
            frame = daft.read_parquet(paths)
            frames.append(frame.select(*(_as_kind(frame, column) for column in self.kind.columns)))
        return union(frames).with_column("damaged", functools.reduce(operator.or_, map(_is_damaged, self._needed())))

    def _needed(self) -> list[Column]:
        return [column for column in self.kind.columns if column.needed]


def _is_parquet(path: str) -> bool:
    """Whether a file is Parquet by its content or by its name, so that a damaged Parquet file is reported as one."""
    try:
        with open_file(path) as file:
            return file.read(4) == b"PAR1" or path.lower().endswith(".parquet")
    except OSError as error:
        raise CcmbError(f"{path}: could not be read ({one_line(error)})") from None


def _check_parquet(path: str, kind: TableKind) -> parquet.FileMetaData:
    try:
        with open_file(path) as file:
            about = parquet.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise CcmbError(f"{path}: not a Parquet file that can be read ({one_line(error)})") from None
    schema = about.schema.to_arrow_schema()
    _check_keys(path, schema.names, kind)
    for column in kind.columns:
        key = next((key for key in column.keys if key in schema.names), None)
        if key is not None and not _fits(column, schema.field(key).type):
            raise CcmbError(f"{path}: column '{key}' is {schema.field(key).type}; {kind.name} need {column.kind}")
    return about


def _check_keys(path: str, keys: Sequence[str], kind: TableKind) -> None:
    for column in kind.columns:
        if column.needed and not any(key in keys for key in column.keys):
            hint = did_you_mean(column.keys[0], list(keys)) or f"; it has: {', '.join(list(keys)[:12]) or 'nothing'}"
            raise CcmbError(f"{path}: no column '{column.keys[0]}'{hint}; {kind.name} need {kind.needed}")


def _fits(column: Column, arrow_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    texts = (
        pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or pa.types.is_string_view(arrow_type)
    )
    numbers = pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type) or pa.types.is_boolean(arrow_type)
    if pa.types.is_null(arrow_type):
        return not column.needed
    if column.kind == "text":
        return texts
    return numbers or (column.kind == "time" and (texts or pa.types.is_timestamp(arrow_type)))


def _as_kind(frame: DataFrame, column: Column) -> Expression:
    """The column as its kind, or nulls if the file lacks it; see `records.value_of`."""
    key = next((key for key in column.keys if key in frame.column_names), None)
    as_type = {"text": DataType.string(), "number": DataType.float64()}.get(column.kind, DataType.int64())
    if key is None:
        return daft.lit(None).cast(as_type).alias(column.name)
    value, dtype = col(key), frame.schema()[key].dtype
    if column.kind == "text":
        value = value.cast(as_type)
        return F.when(F.length(F.strip(value)) > 0, value).otherwise(None).alias(column.name)
    if dtype == DataType.string():
        return _seconds(value).alias(column.name)
    if column.kind == "time" and dtype.is_timestamp():
        return value.cast(DataType.timestamp("s")).cast(as_type).alias(column.name)
    integers = F.when(F.floor(value.cast(DataType.float64())) == value.cast(DataType.float64()), value).otherwise(None)
    return (integers if column.kind == "integer" else value).cast(as_type).alias(column.name)


@daft.func.batch(return_dtype=DataType.int64())
def _seconds(texts: daft.Series) -> list[int | None]:
    return [value_of("time", text) for text in texts.to_pylist()]


def _is_damaged(column: Column) -> Expression:
    value = col(column.name)
    bad = F.is_null(value)
    if column.lowest is not None:
        bad = bad | F.fill_null(value < column.lowest, True)
    if column.highest is not None:
        bad = bad | F.fill_null(value > column.highest, True)
    return bad


def _line_file(path: str, kind: TableKind) -> LineFile:
    """How to read a file of lines, by its bytes, its name and its first line."""
    file, suffix = inspect_line_file(path), suffix_of(path)
    if suffix in (".jsonl", ".json", ".ndjson"):
        file = as_array(file)
        _check_keys(path, _keys_of_json(file), kind)
        return file
    if kind is not LINKS:
        raise CcmbError(f"{path}: {kind.name} are JSON lines or Parquet")
    separator = "," if suffix == ".csv" else "\t"
    [line] = first_lines(file)
    first = next(csv.reader([line.decode("utf-8", "replace").rstrip("\r\n")], delimiter=separator), [])
    known = {name_key(key): key for column in kind.columns for key in column.keys}
    if known.keys() & {*map(name_key, first)}:
        keys = tuple(known.get(name_key(name), name) for name in first)
        _check_keys(path, keys, kind)
        return replace(file, separator=separator, keys=keys, header=True)
    if len(first) != 2:
        raise CcmbError(f"{path}: its first line is neither a header nor a URL, {separator!r} and a text")
    return replace(file, separator=separator, keys=("url", "caption"))


def _keys_of_json(file: LineFile) -> list[str]:
    """The keys of the first hundred lines, as one line may lack a key, or those of the first object of an array."""
    keys: dict[str, None] = {}
    for line in [first_of_array(file)] if file.array else first_lines(file, 100):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        keys |= dict.fromkeys(value if isinstance(value, dict) else {})
    return list(keys)


def read_test_texts(sources: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """The texts of the test sets, in any form that `ccmb.core.text.tables` reads.

    Rows without a text, and files that are passed over, are reported on stderr.

    Raises:
        CcmbError: a source has no file, or a file cannot be read, has a faulty line, or holds no text.
    """
    texts: list[str] = []
    passed_over = PassedOver()
    files = files_of(sources, passed_over, Excludes(exclude), any_suffix=True) if sources else []
    if passed_over:
        _LOG.warning("test texts: %s", passed_over, extra=BARE)
    for path in files:
        table = TextTable(path, open_file(path))
        if not table.texts:
            raise CcmbError(
                f"{path}: no texts in {table.rows:,} lines; give a text a line, or JSON, CSV or Parquet with a key or "
                "column 'text', 'caption' or 'query'"
            )
        if table.empty:
            _LOG.warning(f"{path}: {table.empty:,} of {table.rows:,} rows hold no text", extra=BARE)
        texts += table.texts
    return texts
