"""Lenient reading of published files: a line that cannot be read is counted and skipped, and raises no error.

Files come from anywhere, so lines and files have a maximum size. See `ccmb.core.text.forms` for the encodings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.files import read_json
from ccmb.core.text.files import open_utf8, split_lines
from ccmb.datasets.problems import BAD_LINE, EMPTY_TEXT, Problems

MAX_LINE = 2**20
MAX_JSON_FILE = 2**29
BOM = b"\xef\xbb\xbf"


def read_lines(path: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, as (where, text): file and line number from 1, and the text without line end.

    Raises:
        CcmbError: the file cannot be read at all.
    """
    for line_number, line, whole in _raw_lines(path):
        where = f"{path}:{line_number}"
        if not whole:
            problems.add(BAD_LINE, f"{where}: more than the {MAX_LINE:,} bytes allowed")
        elif line.strip():
            try:
                text = line.decode()
            except UnicodeDecodeError:
                problems.add(BAD_LINE, f"{where}: not UTF-8 text; save the file as UTF-8")
                continue
            yield from ((where, part) for part in split_lines(text) if part.strip())


def read_objects(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a JSON-lines file, as (where, object).

    Raises:
        CcmbError: the file cannot be read at all.
    """
    for where, line in read_lines(path, problems):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(BAD_LINE, f"{where}: not valid JSON ({one_line(error)})")
            continue
        if isinstance(value, dict):
            yield where, value
        else:
            problems.add(BAD_LINE, f"{where}: expected a JSON object, found {type(value).__name__}")


def read_list(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry of a file that is one JSON list, as (where, object).

    Raises:
        CcmbError: the file cannot be read, is no JSON list, or is larger than MAX_JSON_FILE.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None
    if size > MAX_JSON_FILE:
        raise CcmbError(f"{path}: {size:,} bytes are more than the {MAX_JSON_FILE:,} allowed")
    values = read_json(path)
    if not isinstance(values, list):
        raise CcmbError(f"{path}: expected a JSON list, found {type(values).__name__}; download the file again")
    for index, value in enumerate(values):
        where = f"{path}[{index}]"
        if isinstance(value, dict):
            yield where, value
        else:
            problems.add(BAD_LINE, f"{where}: expected a JSON object, found {type(value).__name__}")


def text_of(value: object, where: str, problems: Problems) -> str | None:
    """The text without surrounding blanks; None if it is no text or empty, which is counted."""
    if not isinstance(value, str):
        problems.add(BAD_LINE, f"{where}: the text is missing or of type {type(value).__name__}")
    elif not value.strip():
        problems.add(EMPTY_TEXT, f"{where}: the text is empty")
    elif not is_unicode(value):
        problems.add(BAD_LINE, f"{where}: the text has half a surrogate pair")
    else:
        return value.strip()
    return None


def id_of(value: object) -> str | None:
    """An id as text; it may be written as a number. None if it is neither a number nor a text, or empty."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**63 else None
    if isinstance(value, str) and value.strip() and is_unicode(value):
        return value.strip()
    return None


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates. JSON can escape these, but tokenizers and UTF-8 files refuse them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Each line as (number, bytes, whether these are the whole line)."""
    try:
        with open_utf8(path) as file:
            line_number = 0
            while line := file.readline(MAX_LINE):
                line_number += 1
                whole = line.endswith(b"\n") or len(line) < MAX_LINE
                chunk = line
                while not chunk.endswith(b"\n") and len(chunk) == MAX_LINE:
                    chunk = file.readline(MAX_LINE)
                yield line_number, line.removeprefix(BOM) if line_number == 1 else line, whole
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None
