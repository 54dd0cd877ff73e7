"""The texts of a file in any common form, by its content: plain lines, JSON (lines or an array), CSV, TSV, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.text.files import text_lines

# Keys of JSON and names of columns that hold texts, in any case.
TEXT_KEYS = (
    "text", "texts", "caption", "captions", "query", "query_text", "txt", "sentence", "sentences", "title",
    "文本", "描述", "查询", "查询词", "标题", "句子",
)  # fmt: skip
_JSON = (".json", ".jsonl", ".ndjson")


class TextTable:
    """The texts of a file.

    Attributes:
        texts: all texts that are not blank.
        rows: how many rows, or lines that are not blank, the file has.
        empty: how many of these have no text.
    """

    def __init__(self, path: str | Path, opened: IO[bytes] | None = None) -> None:
        """Read the texts.

        Args:
            opened: a seekable stream of the bytes, if the file is not local.

        Raises:
            CcmbError: the file cannot be read, a line is faulty, or no column holds texts; the message names file and
                line.
        """
        self.texts: list[str] = []
        self.rows = self.empty = 0
        for values in _rows(path, opened):
            texts = [text for text in values if isinstance(text, str) and text.strip()]
            self.texts += texts
            self.rows += 1
            self.empty += not texts


def name_key(name: str) -> str:
    """A key or column name in the form for comparison, without case, surrounding blanks and byte order mark."""
    return name.strip("\ufeff \t\r\n\u3000").casefold()


def _rows(path: str | Path, opened: IO[bytes] | None) -> Iterator[Sequence[Any]]:
    """The possible texts of each row."""
    if is_parquet(path, opened):
        yield from _parquet_rows(path, opened)
        return
    suffix = PurePosixPath(str(path).removesuffix(".gz")).suffix.lower()
    lines = enumerate(text_lines(path, opened), start=1)
    first = next(((line_number, line) for line_number, line in lines if line.strip()), None)
    if first is None:
        return
    all_lines = chain([first], lines)
    if suffix in _JSON or _is_json_object(first[1]):
        yield from _json_rows(path, all_lines)
    elif suffix == ".csv":
        yield from _named_rows(path, _csv_rows(path, all_lines))
    elif suffix in (".tsv", ".tab"):
        yield from _named_rows(path, (split_tabs(line) for _, line in all_lines))
    else:
        yield from _rows_of_text(path, [line for _, line in all_lines if line.strip()])


def _rows_of_text(path: str | Path, lines: list[str]) -> Iterable[Sequence[Any]]:
    """The rows of a text file: one text in each line, unless all lines have tabs or the first line is a CSV header."""
    if all("\t" in line for line in lines):
        return _named_rows(path, map(split_tabs, lines))
    names = next(csv.reader(lines[:1]), [])
    if len(names) > 1 and _text_columns(names):
        return _named_rows(path, _csv_rows(path, enumerate(lines, start=1)))
    return ([line] for line in lines)


def is_parquet(path: str | Path, opened: IO[bytes] | None = None) -> bool:
    """Whether a file is Parquet, by its first bytes."""
    if opened is None:
        try:
            with open(path, "rb") as file:
                return file.read(4) == b"PAR1"
        except OSError:
            return False  # opening it later reports the error
    if not opened.seekable():
        return False
    magic = opened.read(4)
    opened.seek(0)
    return magic == b"PAR1"


def _parquet_rows(path: str | Path, opened: IO[bytes] | None) -> Iterator[Sequence[Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise CcmbError(f"{path}: reading Parquet needs pyarrow: pip install 'ccmb[corpus]'") from None
    try:
        file = parquet.ParquetFile(path if opened is None else opened)
        names = list(file.schema_arrow.names)
        columns = [names[at] for at in _text_columns(names)]
        if not columns:
            raise _no_column(path, names)
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield _values(row.values())
    except CcmbError:
        raise
    except Exception as error:  # what Arrow makes of a damaged file
        raise CcmbError(f"{path}: not a readable Parquet file ({one_line(error)})") from None


def _json_rows(path: str | Path, lines: Iterator[tuple[int, str]]) -> Iterator[Sequence[Any]]:
    """The rows of JSON lines, or of one array of texts or objects whose first line is no value by itself."""
    is_first = True
    for line_number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not is_first:
                raise CcmbError(f"{path}:{line_number}: not valid JSON ({one_line(error)})") from None
            value = _whole(path, "\n".join([line, *(line for _, line in lines)]))
        is_first = False
        for entry in value if isinstance(value, list) else [value]:
            yield _values(_by_keys(entry) if isinstance(entry, dict) else [entry])


def _whole(path: str | Path, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CcmbError(f"{path}: not valid JSON ({one_line(error)})") from None
    return value if isinstance(value, list) else [value]


def _by_keys(entry: dict[str, Any]) -> Iterable[Any]:
    return [value for key, value in entry.items() if name_key(key) in TEXT_KEYS]


def split_tabs(line: str) -> list[str]:
    """The fields of a TSV line.

    Quotes are ordinary characters, unless a field is quoted as in CSV and has doubled quotes.
    """
    return [_without_quotes(field) if '""' in field else field for field in line.split("\t")]


def _without_quotes(field: str) -> str:
    inner = field[1:-1].replace('""', "")
    if len(field) > 2 and field[0] == field[-1] == '"' and '"' not in inner:
        return field[1:-1].replace('""', '"')
    return field


def _csv_rows(path: str | Path, lines: Iterable[tuple[int, str]]) -> Iterator[list[str]]:
    """The rows of CSV by RFC 4180."""
    reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise CcmbError(f"{path}:{reader.line_num}: not CSV ({one_line(error)})") from None


def _named_rows(path: str | Path, rows: Iterable[list[str]]) -> Iterator[Sequence[Any]]:
    """The fields of the columns of texts, which the first row names; a file of one column needs no header."""
    columns: list[int] = []
    for fields in rows:
        if not any(map(str.strip, fields)):
            continue
        if not columns:
            columns = _text_columns(fields)
            if columns:
                continue
            if len(fields) > 1:
                raise _no_column(path, fields)
            columns = [0]
        yield [fields[at] for at in columns if at < len(fields)]


def _text_columns(names: Iterable[str]) -> list[int]:
    return [at for at, name in enumerate(names) if name_key(name) in TEXT_KEYS]


def _values(values: Iterable[Any]) -> list[Any]:
    """The values, with lists flattened."""
    return [text for value in values for text in (value if isinstance(value, list) else [value])]


def _is_json_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _no_column(path: str | Path, names: Sequence[str]) -> CcmbError:
    listed = ", ".join(name[:40] for name in names[:12])
    return CcmbError(f"{path}: no column of texts; call it text, caption or query in the first line; it has: {listed}")
