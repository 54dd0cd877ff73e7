"""Files of text that users have, all read in one way: see `ccmb.core.text.forms` for what is read and what is refused.

A line ends with CR, LF or CRLF. The separators that `str.splitlines` knows besides (U+2028, U+0085, form feeds) are
characters of a text, which web pages and PDFs are full of.
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

_LEADS = bytes(range(0xE3, 0xEA))  # what the characters of Chinese and its punctuation begin with in UTF-8
_ENDS = re.compile("\r\n|\r|\n")


def read_text(path: str | Path, fix: str = "") -> str:
    """The whole text of a file, with line feeds.

    Raises:
        CcmbError: see `text_lines`.
    """
    return "\n".join(text_lines(path, fix=fix))


def text_lines(path: str | Path, opened: IO[bytes] | None = None, fix: str = "") -> Iterator[str]:
    """The lines of a file without their ends, blank ones too, so that `enumerate(..., start=1)` numbers them.

    A file that is GB18030 is read as such, which is said on stderr.

    Args:
        opened: its bytes, if it is not a local file.
        fix: what to do about a file that is not there.

    Raises:
        CcmbError: it cannot be read, is no text, or its encoding cannot be decided; the message names file and line.
    """
    with open_bytes(path, opened, fix) as stream:
        form = form_of(stream, str(path))
        number, is_ascii = 0, True
        try:
            for lines in lines_of(stream, form.codec, form.mark):
                text = "".join(lines)
                if "\0" in text:
                    bad = number + next(place for place, line in enumerate(lines, start=1) if "\0" in line)
                    raise CcmbError(f"{path}:{bad}: not UTF-8 text: zero bytes, as of a binary file; {FIX}")
                is_ascii = is_ascii and text.isascii()
                number += len(lines)
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
        check_gb18030(stream, str(path))  # so far there were but ASCII characters, which mean the same in both
        yield from islice(chain.from_iterable(lines_of(stream, GB18030)), number, None)


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends; none after the last line end."""
    lines = _ENDS.split(text)
    return lines if lines[-1] else lines[:-1]


def decode_text(data: bytes, name: str) -> str:
    """The text of bytes, as `read_text` reads a file of them; UTF-8, which nearly all are, at once.

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
    """The bytes of a file as UTF-8 without mark, with lines that end with LF or CRLF, for readers that take damaged
    lines one by one: of a file that is UTF-8 for the most part they are as they stand.

    Raises:
        CcmbError: it cannot be read, is no text, or most of it is neither Unicode nor GB18030.
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
    """The number of the line in which the bytes that cannot be decoded stand."""
    stream.seek(mark)
    decoder, number = codecs.getincrementaldecoder(codec)(), 1
    while block := stream.read(BLOCK):
        try:
            number += decoder.decode(block).count("\n")
        except UnicodeDecodeError as error:
            number += error.object[: error.start].decode(codec).count("\n")
            break
    return number
