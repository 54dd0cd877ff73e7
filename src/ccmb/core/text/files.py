"""How text files of users are read. `ccmb.core.text.forms` defines which forms are read and which are refused.

A line ends with CR, LF or CRLF. `str.splitlines` knows more separators (U+2028, U+0085, form feeds). Here they are
ordinary characters, because texts of web pages and PDFs contain many of them.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO

from ccmb.core.errors import CcmbError
from ccmb.core.text.forms import GB18030, UTF8, check_gb18030, form_of, likely_form, unpacked
from ccmb.core.text.streams import BLOCK, FIX, AsUtf8, lines_of

_LEADS = bytes(range(0xE3, 0xEA))  # the first bytes of Chinese characters and punctuation in UTF-8
_ENDS = re.compile("\r\n|\r|\n")


def read_text(path: str | Path, fix: str = "") -> str:
    """The whole text of a file, with line feeds.

    Raises:
        CcmbError: see `text_lines`.
    """
    return "\n".join(text_lines(path, fix=fix))


def text_lines(path: str | Path, opened: IO[bytes] | None = None, fix: str = "") -> Iterator[str]:
    """The lines of a file without their ends. Blank lines are included, so `enumerate(..., start=1)` numbers them.

    A GB18030 file is read as such; a message on stderr reports it.

    Args:
        opened: the bytes of a file that is not local.
        fix: what to do about a missing file, for the message.

    Raises:
        CcmbError: the file cannot be read, is no text, or its encoding is not clear; the message names file and line.
    """
    with open_bytes(path, opened, fix) as stream:
        form = form_of(stream, str(path))
        line_count, is_ascii = 0, True
        try:
            for lines in lines_of(stream, form.codec, form.mark):
                text = "".join(lines)
                if "\0" in text:
                    bad = line_count + next(index for index, line in enumerate(lines, start=1) if "\0" in line)
                    raise CcmbError(f"{path}:{bad}: not UTF-8 text: zero bytes, as of a binary file; {FIX}")
                is_ascii = is_ascii and text.isascii()
                line_count += len(lines)
                yield from lines
            return
        except UnicodeDecodeError:
            if form.codec != UTF8 or form.mark:
                what = form.codec.upper()
                bad = _first_bad_line(stream, form.codec, form.mark)
                raise CcmbError(f"{path}:{bad}: {what} that is cut short or damaged; {FIX}") from None
            if not is_ascii:
                bad = _first_bad_line(stream, UTF8)
                raise CcmbError(f"{path}:{bad}: not UTF-8 text, though the lines before it are; {FIX}") from None
        check_gb18030(stream, str(path))  # all characters so far are ASCII, which is the same in both encodings
        yield from islice(chain.from_iterable(lines_of(stream, GB18030)), line_count, None)


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends; none after the last line end."""
    lines = _ENDS.split(text)
    return lines if lines[-1] else lines[:-1]


def decode_text(data: bytes, name: str) -> str:
    """The text of bytes, as `read_text` reads a file. UTF-8, by far the most frequent, is decoded at once.

    Raises:
        CcmbError: see `text_lines`.
    """
    if data.isascii() or any(byte in data for byte in _LEADS):
        with suppress(UnicodeDecodeError):
            text = data.decode("utf-8-sig")
            if "\0" not in text:
                return _ENDS.sub("\n", text) if "\r" in text else text
    return "\n".join(text_lines(name, io.BytesIO(data)))


def open_utf8(path: str | Path, opened: IO[bytes] | None = None) -> IO[bytes]:
    """The bytes of a file as UTF-8 without byte order mark, with lines that end with LF or CRLF.

    It is for readers that handle damaged lines one by one: the bytes of a file that is mostly UTF-8 are not changed.

    Raises:
        CcmbError: the file cannot be read, is no text, or most of it is neither Unicode nor GB18030.
    """
    stream = open_bytes(path, opened)
    form = likely_form(stream, str(path))
    stream.seek(form.mark)
    return stream if form.is_plain else io.BufferedReader(AsUtf8(stream, form.codec, str(path)))


def open_bytes(path: str | Path, opened: IO[bytes] | None = None, fix: str = "") -> IO[bytes]:
    """The unpacked bytes of a file.

    Raises:
        CcmbError: it cannot be opened, or is no text.
    """
    try:
        return unpacked(opened if opened is not None else open(path, "rb"), str(path))
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise CcmbError(f"{path}: {reason}{fix and f'; {fix}'}") from None


def _first_bad_line(stream: IO[bytes], codec: str, mark: int = 0) -> int:
    """The number of the first line that cannot be decoded."""
    stream.seek(mark)
    decoder, line_number = codecs.getincrementaldecoder(codec)(), 1
    while block := stream.read(BLOCK):
        try:
            line_number += decoder.decode(block).count("\n")
        except UnicodeDecodeError as error:
            line_number += error.object[: error.start].decode(codec).count("\n")
            break
    return line_number
