"""Files by path or URL; reading goes on after a failure of the network."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, TypeVar

from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.url_quoting import quoted

# Seconds before each further attempt to read on where a remote file broke off.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
_READ_AT_ONCE = 2**20

T = TypeVar("T")


class BrokenFile(CcmbError):
    """A file cannot be read, or not to its end; the message is one line that names it and says why."""


class ForbiddenFile(BrokenFile):
    """The server refuses to give a file; some servers say the same about files that do not exist."""


def open_file(url: str) -> IO[bytes]:
    """Open a local or remote file for reading; it is seekable.

    Reading a remote file goes on where it broke off, after longer and longer waits; when the last attempt fails too,
    reading raises BrokenFile.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: its kind of URL is not known here.
        BrokenFile: it cannot be opened.
    """
    if not is_remote(url):
        try:
            return open(url, "rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BrokenFile(f"{url}: {error.strerror or error}") from None
    raw = _Patient(url)
    raw.open()
    return io.BufferedReader(raw, _READ_AT_ONCE)


def is_remote(url: str) -> bool:
    return "://" in url


class _Patient(io.RawIOBase):
    """A remote file that is opened anew at the byte where it broke off."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.size: int | None = None
        self._at, self._inner_at = 0, 0
        self._inner: Any = None
        self._file_system, self._path = file_system_of(url)

    def open(self) -> None:
        self._try(self._open)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self.size is None:
            raise BrokenFile(f"{self.url}: the server does not say how long it is")
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size or 0}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._try(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _try(self, action: Callable[[], T]) -> T:
        waits = iter(WAITS)
        while True:
            try:
                return action()
            except ImportError as error:
                raise UsageError(f"{self.url}: {one_line(error)}") from None
            except Exception as error:  # networks fail in as many ways as there are libraries
                _raise_if_final(error, self.url)
                self._drop()
                if (wait := next(waits, None)) is None:
                    reason = f"broke off at byte {self._at:,}" if self._at else "could not be opened"
                    times = f"{len(WAITS)} further attempts failed too"
                    why = one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
                    raise BrokenFile(f"{self.url}: {reason}, and {times} ({why})") from None
                time.sleep(wait)

    def _open(self) -> None:
        self._inner, self._inner_at = self._file_system.open(self._path, "rb"), 0
        self.size = getattr(self._inner, "size", None) or self.size

    def _read(self, count: int) -> bytes:
        if self._inner is None:
            self._open()
        if self._inner_at != self._at:
            self._go_to(self._at)
        data = self._inner.read(count)
        self._inner_at += len(data)
        if not data and self.size is not None and self._at < self.size:
            raise OSError(f"{self.size - self._at:,} bytes are missing")
        return data

    def _go_to(self, offset: int) -> None:
        """Seek to an offset; if the server knows no ranges, by reading up to it."""
        try:
            self._inner.seek(offset)
            if self._inner.tell() == offset:
                self._inner_at = offset
                return
        except (ValueError, OSError):
            pass
        if offset < self._inner_at:
            self._drop()
            self._open()
        while self._inner_at < offset:
            data = self._inner.read(min(_READ_AT_ONCE, offset - self._inner_at))
            if not data:
                return
            self._inner_at += len(data)

    def _drop(self) -> None:
        with suppress(Exception):
            if self._inner is not None:
                self._inner.close()
        self._inner = None


def _raise_if_final(error: Exception, url: str) -> None:
    """Raise if another attempt is in vain.

    fsspec raises FileNotFoundError also for a server that cannot answer, so its cause decides.
    """
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    status = getattr(cause, "status", None)
    if isinstance(error, PermissionError) or status in (401, 403):
        raise ForbiddenFile(f"{url}: the server does not allow it ({one_line(cause)})") from None
    if isinstance(error, FileNotFoundError) and (cause is error or status in (404, 410)):
        raise FileNotFoundError(f"{url}: no such file") from None


def file_system_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        UsageError: its kind of URL is not known here, or lacks a package.
    """
    import fsspec

    try:
        host = re.match("https?://[^/?#]*", url)
        if host and host[0].isascii():  # byte for byte, so that signed addresses stay valid
            return fsspec.core.url_to_fs(quoted(url), encoded=True)
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{url}: {one_line(error)}") from None
