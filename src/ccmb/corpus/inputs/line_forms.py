"""How to read a file of lines: its encoding, whether it can be cut into ranges, and its first lines."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.text.files import open_bytes
from ccmb.core.text.forms import GB18030, UTF8, likely_form
from ccmb.corpus.inputs.delimited import BOM
from ccmb.corpus.inputs.line_source import LONGEST_LINE, LineFile, open_lines
from ccmb.data.shards.remote import open_file


def inspect_line_file(path: str) -> LineFile:
    """Find out how to read the lines of a local or remote file.

    Raises:
        CcmbError: the file cannot be read, is no text, or its encoding is not clear; the message names it.
    """
    try:
        opened = open_file(path)
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
    except OSError as error:
        raise CcmbError(f"{path}: could not be read ({one_line(error)})") from None
    with open_bytes(path, opened) as stream:
        form = likely_form(stream, path, size if stream is opened else None)
    if stream is not opened or form.old_ends or form.codec not in (UTF8, GB18030):
        return LineFile(path)
    return LineFile(path, bytes=size, codec=form.codec)


def first_lines(file: LineFile, count: int = 1) -> list[bytes]:
    """The first lines, in UTF-8, each cut to `LONGEST_LINE` bytes.

    Raises:
        CcmbError: the file cannot be read; the message names it.
    """
    try:
        if file.bytes is None:
            with open_lines(file.path) as opened:
                return [opened.readline(LONGEST_LINE) for _ in range(count)]
        with open_file(file.path) as opened:
            lines = [opened.readline(LONGEST_LINE) for _ in range(count)]
    except OSError as error:
        raise CcmbError(f"{file.path}: could not be read ({one_line(error)})") from None
    if file.codec == GB18030:
        lines = [line.decode(GB18030, "replace").encode() for line in lines]
    return [lines[0].removeprefix(BOM), *lines[1:]]


def as_array(file: LineFile) -> LineFile:
    """The file, marked as a JSON array if it is one.

    It is one if it begins with a bracket and is not JSON lines: its first line is no value, or no second line follows.
    """
    first, second = first_lines(file, 2)
    if not first.lstrip().startswith(b"["):
        return file
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return replace(file, bytes=None, array=True)
    return file if second.strip() else replace(file, bytes=None, array=True)


def first_of_array(file: LineFile) -> bytes:
    """The JSON of the array's first value; empty if that value is longer than what is read."""
    with open_lines(file.path) as opened:
        text = opened.read(4 * LONGEST_LINE).decode("utf-8", "replace").lstrip()[1:].lstrip()
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]].encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b""
