"""The form of a text file, by its bytes and not by its name: its compression, its encoding, and its line ends.

Plain and gzipped files are read: UTF-8, UTF-16 or UTF-32 with a byte order mark, and GB18030, which includes GBK.
GB18030 has no mark, and almost any bytes are valid in it. So it is the last choice. A file is read as GB18030 only if
UTF-8 fails, the whole file decodes, no line is evidently UTF-8, and most characters are common ones. Any other file is
refused by a message of one line.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
from dataclasses import dataclass
from functools import cache
from typing import IO

from ccmb.core.errors import CcmbError
from ccmb.core.logs import BARE
from ccmb.core.text.streams import FIX, Gunzip

_LOG = logging.getLogger(__name__)

HEAD = 1 << 20  # the bytes at the beginning that decide the form of a file
UTF8, GB18030 = "utf-8", "gb18030"
_MARKS = (
    (b"\xef\xbb\xbf", UTF8), (b"\xff\xfe\x00\x00", "utf-32-le"), (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\x84\x31\x95\x33", GB18030),
)  # fmt: skip
_UNPACK = "unpack it first, or pack it with gzip"
_KINDS = (
    (b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK), (b"\xfd7zXZ\x00", "packed with xz", _UNPACK),
    (b"BZh", "packed with bzip2", _UNPACK), (b"\x04\x22\x4d\x18", "packed with lz4", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"), (b"Rar!\x1a\x07", "a rar archive", "unpack it first"),
    (b"PK\x03\x04", "a zip archive or an Excel file", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as CSV or text in UTF-8"),
    (b"PAR1", "a Parquet file", "give JSON lines or other text here"),
    (b"ARROW1", "an Arrow file", "write it as Parquet or JSON lines"),
    (b"SQLite format 3", "an SQLite database", "write its rows as JSON lines"),
    (b"%PDF-", "a PDF", "give text here"), (b"\x89PNG", "an image", "give text here"),
    (b"\xff\xd8\xff", "an image", "give text here"), (b"GIF8", "an image", "give text here"),
    (b"\x93NUMPY", "an array of NumPy", "give text here"), (b"\x80\x04", "a pickle", "give text here"),
    (b"version https://git-lfs", "a pointer of Git LFS and not the file itself", "fetch it with git lfs pull"),
)  # fmt: skip
# The share of common characters minus twice the share of odd ones. Simplified texts have 1.0; traditional texts of 8
# characters have 0.38 or more; Big5 read as GB18030 has 0.25 or less (99 of 100 texts of 8 characters); Shift JIS has
# 0; EUC-JP is below 0.
_ENOUGH_COMMON = 0.3
_ODD = (("\u0370", "\u04ff"), ("\u2500", "\u257f"), ("\u3040", "\u312f"), ("\ue000", "\uf8ff"))
# Scripts whose letters have two bytes in UTF-8, and the first bytes of longer characters.
_SCRIPTS = (
    ("\u00c0", "\u024f"), ("\u0370", "\u03ff"), ("\u0400", "\u045f"), ("\u0530", "\u058f"), ("\u05d0", "\u05ea"),
    ("\u0600", "\u06ff"),
)  # fmt: skip
_LONGER = re.compile(rb"[\xe0-\xf4]")
_SAMPLE = 1 << 20  # the share is computed of so many characters


@dataclass(frozen=True, slots=True)
class TextForm:
    """How to read the bytes of an unpacked file.

    Attributes:
        codec: the name of Python's codec.
        mark: the length of the byte order mark in bytes.
        old_ends: whether lines end with CR alone.
    """

    codec: str = UTF8
    mark: int = 0
    old_ends: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the bytes after the mark are UTF-8 with line feeds."""
        return self.codec == UTF8 and not self.old_ends


def unpacked(opened: IO[bytes], name: str) -> IO[bytes]:
    """The bytes of a file as a seekable stream. A gzip file is unpacked, whatever its name is.

    Raises:
        CcmbError: the file is packed otherwise or is no text. While it is read: a gzip file is cut short or damaged.
    """
    if not opened.seekable():
        opened = io.BytesIO(opened.read())
    head = opened.read(512)
    opened.seek(0)
    if head.startswith(b"\x1f\x8b"):
        opened = io.BufferedReader(Gunzip(opened, name), HEAD)
        head = opened.read(512)
        opened.seek(0)
        if head.startswith(b"\x1f\x8b"):
            raise CcmbError(f"{name}: is packed with gzip twice; unpack it first")
    refuse_other_kinds(head, name)
    return opened


def refuse_other_kinds(head: bytes, name: str) -> None:
    """Refuse a file that is no text, by its first bytes.

    Raises:
        CcmbError: the file is no text; the message names its kind.
    """
    for sign, kind, fix in _KINDS:
        if head.startswith(sign) and (sign != b"BZh" or head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")):
            raise CcmbError(f"{name}: is {kind}; {fix}")
    if head[257:262] == b"ustar":
        raise CcmbError(f"{name}: is a tar archive; unpack it first")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise CcmbError(f"{name}: is a web page (HTML); download the file itself")


def form_of(stream: IO[bytes], name: str) -> TextForm:
    """The form of a file whose every line must be sound. The stream is left at its beginning.

    Args:
        stream: the result of `unpacked`.

    Raises:
        CcmbError: the file is binary, or neither Unicode nor GB18030; the message names the line.
    """
    head, form = _marked(stream, name)
    if form.codec == UTF8 and not form.mark and not is_utf8(head, len(head) == HEAD):
        check_gb18030(stream, name)
        return TextForm(GB18030, 0, form.old_ends)
    return _by_scripts(stream, name, head, form)


def likely_form(stream: IO[bytes], name: str, size: int | None = None) -> TextForm:
    """The form of a file in which a damaged line loses only itself: UTF-8 if most of its beginning is.

    Args:
        size: the size of the stream, if seeking costs nothing; then some later parts are checked too.

    Raises:
        CcmbError: the file is binary; or most of the checked lines are not UTF-8, and the file is not GB18030.
    """
    head, form = _marked(stream, name, max_nuls=HEAD // 8)
    if form.codec == UTF8 and not form.mark:
        good, bad = _kinds_of_lines(head[: head.rfind(b"\n") if len(head) == HEAD else None])
        for offset in _places_within(size or 0):
            stream.seek(offset)
            window = stream.read(HEAD // 16)
            more = _kinds_of_lines(window[window.find(b"\n") : window.rfind(b"\n")])
            good, bad = good + more[0], bad + more[1]
        stream.seek(0)
        if bad > good:
            try:
                check_gb18030(stream, name)
                return TextForm(GB18030, 0, form.old_ends)
            except CcmbError:
                if bad > max(good, 2):
                    raise
                stream.seek(0)
        elif not bad:
            return _by_scripts(stream, name, head, form)
    return form


def _places_within(size: int) -> tuple[int, ...]:
    """The positions in a large file that are checked beside its beginning."""
    return (size // 4, size // 2, size // 4 * 3) if size > 4 * HEAD else ()


def _by_scripts(stream: IO[bytes], name: str, head: bytes, form: TextForm) -> TextForm:
    """GB18030, if a text is UTF-8 only by chance.

    That happens in short texts: the bytes of 一只猫 in GBK are one letter each of Cyrillic, Hebrew and Latin in UTF-8.
    """
    if form != TextForm(old_ends=form.old_ends) or head.isascii() or _LONGER.search(head):
        return form
    wide = {char for char in head.decode(UTF8, "ignore") if char > "\u00bf"}
    if any(all(low <= char <= high for char in wide) for low, high in _SCRIPTS):
        return form
    try:
        check_gb18030(stream, name)
    except CcmbError:
        stream.seek(0)
        return form
    return TextForm(GB18030, 0, form.old_ends)


def _marked(stream: IO[bytes], name: str, max_nuls: int = 0) -> tuple[bytes, TextForm]:
    """The beginning of a file, and its form by the byte order mark and the line ends."""
    head = stream.read(HEAD)
    stream.seek(0)
    mark, codec = next(((mark, codec) for mark, codec in _MARKS if head.startswith(mark)), (b"", UTF8))
    if codec in (UTF8, GB18030) and head.count(b"\0") > min(max_nuls, len(head) // 8):
        line = head[: head.index(b"\0")].count(b"\n") + 1
        raise CcmbError(f"{name}:{line}: not UTF-8 text: zero bytes, as of a binary file or UTF-16 without mark; {FIX}")
    text = head[len(mark) :].decode(codec, "replace") if codec not in (UTF8, GB18030) else ""
    old = "\r" in text and "\n" not in text if text else b"\r" in head and b"\n" not in head
    return head, TextForm(codec, len(mark), old)


def is_utf8(data: bytes, cut: bool = False) -> bool:
    """Whether bytes are UTF-8; if `cut`, the last character may be incomplete."""
    try:
        codecs.getincrementaldecoder(UTF8)().decode(data, final=not cut)
    except UnicodeDecodeError:
        return False
    return True


def check_gb18030(stream: IO[bytes], name: str) -> None:
    """Check that a file can be read as GB18030, and report that on stderr. The stream is left at its beginning.

    Raises:
        CcmbError: the file is not GB18030; the message names the first line that is not UTF-8.
    """
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(GB18030)()
    line_number = good = bad = 0
    decodes, sample = True, ""
    while line := stream.readline(HEAD):
        line_number += 1
        if line.isascii() and not decoder.getstate()[0]:
            continue
        if is_utf8(line, len(line) == HEAD):
            good = good or (line_number if _is_evident(line) else 0)
        else:
            bad = bad or line_number
        if good and bad:
            raise CcmbError(f"{name}:{bad}: not UTF-8 text, though line {good} is: two encodings in one file; {FIX}")
        try:
            text = decoder.decode(line) if decodes else ""
        except UnicodeDecodeError:
            decodes = False
        else:
            sample += text if len(sample) < _SAMPLE else ""
    stream.seek(0)
    if not decodes or decoder.getstate()[0]:
        raise CcmbError(f"{name}:{bad or 1}: not UTF-8 text, and the file is not GB18030 (GBK) either; {FIX}")
    if not _looks_chinese(sample):
        raise CcmbError(
            f"{name}:{bad or 1}: not UTF-8 text, and as GB18030 (GBK) it would have few common characters, "
            f"as a text in Big5, Shift JIS or Latin letters has; {FIX}"
        )
    _say(f"{name}: read as GB18030 (GBK), not as UTF-8")


def _looks_chinese(text: str) -> bool:
    wide = [char for char in text if char > "\x7f"]
    odd = sum(low <= char <= high for char in wide for low, high in _ODD)
    return sum(char in _common() for char in wide) - 2 * odd >= _ENOUGH_COMMON * len(wide)


def _kinds_of_lines(text: bytes) -> tuple[int, int]:
    """How many lines are evidently UTF-8, and how many are not UTF-8.

    If all lines are UTF-8, they are not counted: the first number is 1 or 0.
    """
    if is_utf8(text):
        return (1 if _LONGER.search(text) else 0), 0
    wide = [line for line in text.split(b"\n") if not line.isascii()]
    bad = sum(not is_utf8(line) for line in wide)
    return sum(is_utf8(line) and _is_evident(line) for line in wide), bad


def _is_evident(line: bytes) -> bool:
    """Whether a line of UTF-8 holds a character of three bytes or more: GBK, in pairs, gives none by chance."""
    return any(char >= "\u0800" for char in line.decode(UTF8, "ignore"))


@cache
def _common() -> frozenset[str]:
    """The common characters: punctuation, full-width letters, and the 3,755 characters of level 1 of GB2312."""
    rows = (0xA1, 0xA3, *range(0xB0, 0xD8))
    return frozenset(b"".join(bytes((row, cell)) for row in rows for cell in range(0xA1, 0xFF)).decode(GB18030))


@cache
def _say(line: str) -> None:
    """Log a line, once in a process."""
    _LOG.warning(line, extra=BARE)
