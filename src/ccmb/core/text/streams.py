"""Streams for reading text: unpacked, as UTF-8, and line by line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from ccmb.core.errors import CcmbError

FIX = "save it as UTF-8"
BLOCK = 1 << 20


class Gunzip(io.RawIOBase):
    """A gzip file whose errors name it."""

    def __init__(self, opened: IO[bytes], name: str) -> None:
        super().__init__()
        self._file, self._name = gzip.GzipFile(fileobj=opened), name
        self._opened = opened

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._file.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            why = " ".join(str(error).split())
            raise CcmbError(
                f"{self._name}: the gzip file is cut short or damaged ({why}); fetch or pack it again"
            ) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        self._opened.close()
        super().close()


class AsUtf8(io.RawIOBase):
    """Text in another encoding as UTF-8 with line feeds, from the current position of the stream."""

    def __init__(self, stream: IO[bytes], codec: str, name: str) -> None:
        super().__init__()
        self._name, self._lines, self._held = name, 1, b""
        self._text = io.TextIOWrapper(stream, encoding=codec, newline=None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._held:
            try:
                self._held = self._text.read(BLOCK).encode()
            except UnicodeDecodeError as error:
                codec = error.encoding.upper()
                raise CcmbError(f"{self._name}:{self._lines}: {codec} that is cut short or damaged; {FIX}") from None
            self._lines += self._held.count(b"\n")
        data, self._held = self._held[: len(buffer)], self._held[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._text.close()
        super().close()


def lines_of(stream: IO[bytes], codec: str, mark: int = 0) -> Iterator[list[str]]:
    """Lists of lines after the byte order mark, without their ends; only CR, LF and CRLF end a line.

    Raises:
        UnicodeDecodeError: the bytes are not in the encoding.
    """
    stream.seek(mark)
    text = io.TextIOWrapper(stream, encoding=codec, newline=None)
    last, is_first = "", True
    try:
        while block := text.read(BLOCK // 4):
            lines = (last + block).split("\n")
            last = lines.pop()
            if is_first and lines:
                lines[0], is_first = lines[0].lstrip("\ufeff"), False
            yield lines
        if last:
            yield [last.lstrip("\ufeff") if is_first else last]
    finally:
        with suppress(ValueError):  # a caller that stops early may have closed the stream
            text.detach()
