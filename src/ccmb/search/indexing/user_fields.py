"""User fields: values that users give to images, in a file of JSON lines or a Parquet file."""

from __future__ import annotations

import math
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.files import read_json_lines
from ccmb.core.text.tables import is_parquet
from ccmb.search.index_folder import IndexRecord
from ccmb.search.query import FieldValue
from ccmb.search.vector_store import Entry

NAME_KEYS = ("name", "image", "path", "file_name", "url")
_HALF = re.compile("[\ud800-\udfff]")
_LONGEST = 4096  # characters of a text


class UserFields:
    """The user fields of images, by the name in their line: the name within the source, a whole path, or a URL."""

    def __init__(self, by_name: Mapping[str, Mapping[str, FieldValue]], left_out: set[str]) -> None:
        self._by_name, self.left_out = by_name, left_out
        self._matched: set[str] = set()

    def fields_of(self, entry: Entry, url: str | None = None) -> Mapping[str, FieldValue] | None:
        """The fields of an image, with yes or no as 1 or 0; None if the file has no line about it."""
        for name in (url, f"{entry.source}/{entry.name}", entry.name):
            if name is not None and (name := _plain_name(name)) in self._by_name:
                self._matched.add(name)
                return self._by_name[name]
        return None

    def unmatched(self) -> list[str]:
        """The names in the file that matched no image so far."""
        return [name for name in self._by_name if name not in self._matched]


def read_user_fields(path: Path, record: IndexRecord) -> UserFields:
    """Read a file of user fields, and record their types in `record`.

    If several lines are about the same image, the last line with a field counts. Values other than texts, numbers,
    true and false are left out, and so are nulls.

    Raises:
        UsageError: a field has values of several types, or a name that cannot be used.
        CcmbError: the file cannot be read, or a line names no image; the message names the line.
    """
    by_name: dict[str, dict[str, FieldValue]] = {}
    left_out: set[str] = set()
    for line_number, line in _lines(path):
        key = next((key for key in NAME_KEYS if isinstance(line.get(key), str)), None)
        if key is None:
            raise CcmbError(f"{path}:{line_number}: names no image; it needs one of: {', '.join(NAME_KEYS)}")
        name = _plain_name(str(line.pop(key)))
        user_fields = {field: value for field, value in line.items() if _is_plain(value)}
        left_out |= {field for field, value in line.items() if value is not None} - user_fields.keys()
        record.learn_fields(user_fields, f"{path}:{line_number}")
        by_name.setdefault(name, {}).update(storable(user_fields))
    return UserFields(by_name, left_out)


def _plain_name(name: str) -> str:
    """A name in normal form: `./a//0.jpg` becomes a/0.jpg, and a URL stays unchanged.

    Systems write the same letter in one or two characters, and use slashes or backslashes.
    """
    if "://" not in name and "/" not in name:
        name = name.replace("\\", "/")
    return unicodedata.normalize("NFC", name if "://" in name or not name else posixpath.normpath(name))


def storable(user_fields: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    """User fields as stores hold them: yes or no as 1 or 0, which compare alike in every store."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in user_fields.items()}


def check_user_fields(user_fields: Mapping[str, object]) -> dict[str, FieldValue]:
    """Check the values of user fields.

    Raises:
        UsageError: a value is not a text, a number, true or false.
    """
    for name, value in user_fields.items():
        if not _is_plain(value):
            raise UsageError(
                f"{name}: {str(value)[:40]!r} is not a text of up to {_LONGEST} characters, a number, true or false"
            )
    return dict(user_fields)  # type: ignore[arg-type]


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        # Blanks of any width, joiners and line breaks are allowed; no store can hold half a surrogate pair.
        return len(value) <= _LONGEST and "\0" not in value and not _HALF.search(value)
    return isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix.lower() not in (".parquet", ".pq") and not is_parquet(path):
        yield from read_json_lines(path)
        return
    try:
        import pyarrow.parquet as parquet

        row_number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                row_number += 1
                yield row_number, row
    except ImportError:
        raise CcmbError("reading Parquet needs pyarrow: pip install 'ccmb[search]'") from None
    except Exception as error:  # what Arrow makes of a damaged or missing file
        if isinstance(error, CcmbError):
            raise
        raise CcmbError(f"{path}: not a readable Parquet file ({one_line(error)})") from None
