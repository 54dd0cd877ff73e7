"""Gzipped tars in which files are looked up in any order: decompressed once into a temporary file."""

from __future__ import annotations

import atexit
import gzip
import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress

_BLOCK = 2**20
# From a tar's path, size and time of change to its decompressed file and the process that removes it.
_plain: dict[tuple[str, int, int], tuple[Path, int]] = {}


def plain_tar(path: Path) -> Path:
    """The file itself, or for a gzipped tar a temporary decompressed copy, which lasts until this process ends.

    Raises:
        CcmbError: it cannot be read, is damaged, or there is no room for it; the message names it.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return path
        status = path.stat()
        key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
        if key not in _plain or not _plain[key][0].exists():
            _plain[key] = (_decompressed(path, status.st_size), os.getpid())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CcmbError(f"{path}: not a whole gzip ({error})") from None
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None
    return _plain[key][0]


def _decompressed(path: Path, size: int) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="ccmb-", suffix=".tar")
    try:
        with (
            os.fdopen(descriptor, "wb") as target,
            open(path, "rb") as packed,
            gzip.GzipFile(fileobj=packed) as source,
            progress(f"decompress {path.name}", size, "bytes") as advance,
        ):
            done = 0
            while block := source.read(_BLOCK):
                target.write(block)
                advance(packed.tell() - done)
                done = packed.tell()
    except BaseException as error:  # Ctrl-C too leaves no half of a tar behind
        os.unlink(name)
        if isinstance(error, OSError) and error.errno is not None:
            fix = f"could not be decompressed in {tempfile.gettempdir()}; gunzip it, or set TMPDIR"
            raise CcmbError(f"{path}: {fix} ({error})") from None
        raise
    return Path(name)


@atexit.register
def _remove() -> None:
    for path, process in _plain.values():
        if process == os.getpid():
            with suppress(OSError):
                path.unlink()
