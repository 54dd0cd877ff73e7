"""What a file of text is, told by its bytes and not by its name: how it is packed, encoded, and where its lines end.

Read are plain and gzipped files, of UTF-8, of UTF-16 or UTF-32 with a mark, and of GB18030, which holds GBK. GB18030
has no mark and takes almost any bytes. So it is a last resort: UTF-8 fails, the whole file decodes, no line is
evidently UTF-8, and most of the characters are common ones. Whatever else a file is, one line says so.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import IO

from ccmb.core.errors import CcmbError
from ccmb.core.text.streams import FIX, Gunzip

HEAD = 1 << 20  # bytes that decide what a file is; a smaller one is looked at as a whole
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
# Share of common characters less twice that of odd ones: simplified texts have 1.0, traditional ones of 8 characters
# 0.38 and more, Big5 taken for GB18030 0.25 and less (99 of 100 texts of 8 characters), Shift JIS 0, EUC-JP below 0.
_ENOUGH_COMMON = 0.3
_ODD = (("\u0370", "\u04ff"), ("\u2500", "\u257f"), ("\u3040", "\u312f"), ("\ue000", "\uf8ff"))
# Scripts whose letters have two bytes in UTF-8, and what begins a character of more.
_SCRIPTS = (
    ("\u00c0", "\u024f"), ("\u0370", "\u03ff"), ("\u0400", "\u045f"), ("\u0530", "\u058f"), ("\u05d0", "\u05ea"),
    ("\u0600", "\u06ff"),
)  # fmt: skip
_LONGER = re.compile(rb"[\xe0-\xf4]")
_SAMPLE = 1 << 20  # characters that are looked at for it


@dataclass(frozen=True, slots=True)
class TextForm:
    """How the bytes of an unpacked file are to be read.

    Attributes:
        codec: of Python.
        mark: bytes of the byte order mark, which are no text.
        old_ends: whether lines end with CR alone.
    """

    codec: str = UTF8
    mark: int = 0
    old_ends: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are UTF-8 with line feeds, apart from the mark."""
        return self.codec == UTF8 and not self.old_ends


def unpacked(opened: IO[bytes], name: str) -> IO[bytes]:
    """The bytes themselves, which can be sought: those of a gzip file unpacked, whatever its name says.

    Raises:
        CcmbError: it is packed otherwise, or no text at all; or, on reading, a gzip file is cut short or damaged.
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
    """
    Raises:
        CcmbError: a file that begins so is no text; the message says what it is.
    """
    for sign, kind, fix in _KINDS:
        if head.startswith(sign) and (sign != b"BZh" or head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")):
            raise CcmbError(f"{name}: is {kind}; {fix}")
    if head[257:262] == b"ustar":
        raise CcmbError(f"{name}: is a tar archive; unpack it first")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise CcmbError(f"{name}: is a web page (HTML); download the file itself")


def form_of(stream: IO[bytes], name: str) -> TextForm:
    """The form of a file that must be read as a whole: of what `unpacked` gives, which is left at its beginning.

    Raises:
        CcmbError: it is neither Unicode nor GB18030, or binary; the message names the line.
    """
    head, form = _marked(stream, name)
    if form.codec == UTF8 and not form.mark and not is_utf8(head, len(head) == HEAD):
        check_gb18030(stream, name)
        return TextForm(GB18030, 0, form.old_ends)
    return _by_scripts(stream, name, head, form)


def likely_form(stream: IO[bytes], name: str, size: int | None = None) -> TextForm:
    """The same of a file in which a damaged line costs itself alone: UTF-8 where most of its beginning is.

    Args:
        size: of the stream, where seeking costs nothing: then some places farther on are looked at too.

    Raises:
        CcmbError: most of what is looked at is not UTF-8, and the file is not GB18030 as a whole; or it is binary.
    """
    head, form = _marked(stream, name, most_nuls=HEAD // 8)
    if form.codec == UTF8 and not form.mark:
        good, bad = _kinds_of_lines(head[: head.rfind(b"\n") if len(head) == HEAD else None])
        for place in _places_within(size or 0):
            stream.seek(place)
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
    """Where a large file is looked at besides its beginning."""
    return (size // 4, size // 2, size // 4 * 3) if size > 4 * HEAD else ()


def _by_scripts(stream: IO[bytes], name: str, head: bytes, form: TextForm) -> TextForm:
    """GB18030 where UTF-8 fits by chance alone, as in a short text: 一只猫 in GBK is a letter each of Cyrillic, Hebrew
    and Latin in UTF-8."""
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


def _marked(stream: IO[bytes], name: str, most_nuls: int = 0) -> tuple[bytes, TextForm]:
    """The beginning, and what its mark and its line ends say."""
    head = stream.read(HEAD)
    stream.seek(0)
    mark, codec = next(((mark, codec) for mark, codec in _MARKS if head.startswith(mark)), (b"", UTF8))
    if codec in (UTF8, GB18030) and head.count(b"\0") > min(most_nuls, len(head) // 8):
        line = head[: head.index(b"\0")].count(b"\n") + 1
        raise CcmbError(f"{name}:{line}: not UTF-8 text: zero bytes, as of a binary file or UTF-16 without mark; {FIX}")
    text = head[len(mark) :].decode(codec, "replace") if codec not in (UTF8, GB18030) else ""
    old = "\r" in text and "\n" not in text if text else b"\r" in head and b"\n" not in head
    return head, TextForm(codec, len(mark), old)


def is_utf8(data: bytes, cut: bool = False) -> bool:
    """Whether bytes are UTF-8; if `cut`, a character may be missing its end."""
    try:
        codecs.getincrementaldecoder(UTF8)().decode(data, final=not cut)
    except UnicodeDecodeError:
        return False
    return True


def check_gb18030(stream: IO[bytes], name: str) -> None:
    """Say that the file is read as GB18030, if it can be; the stream is left at its beginning.

    Raises:
        CcmbError: it cannot be; the message names the first line that is not UTF-8.
    """
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(GB18030)()
    number = good = bad = 0
    decodes, sample = True, ""
    while line := stream.readline(HEAD):
        number += 1
        if line.isascii() and not decoder.getstate()[0]:
            continue
        if is_utf8(line, len(line) == HEAD):
            good = good or (number if _is_evident(line) else 0)
        else:
            bad = bad or number
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
    """Lines that are evidently UTF-8, and those that are not UTF-8; of whole ones in UTF-8 none is counted."""
    if is_utf8(text):
        return (1 if _LONGER.search(text) else 0), 0
    wide = [line for line in text.split(b"\n") if not line.isascii()]
    bad = sum(not is_utf8(line) for line in wide)
    return sum(is_utf8(line) and _is_evident(line) for line in wide), bad


def _is_evident(line: bytes) -> bool:
    """Whether UTF-8 holds a character of three bytes or more, which GBK does not give by chance as a pair of bytes."""
    return any(char >= "\u0800" for char in line.decode(UTF8, "ignore"))


@cache
def _common() -> frozenset[str]:
    """Punctuation, letters of full width, and the 3,755 characters of the first level of GB2312."""
    rows = (0xA1, 0xA3, *range(0xB0, 0xD8))
    return frozenset(b"".join(bytes((row, cell)) for row in rows for cell in range(0xA1, 0xFF)).decode(GB18030))


@cache
def _say(line: str) -> None:
    """Once in a process."""
    print(line, file=sys.stderr, flush=True)
