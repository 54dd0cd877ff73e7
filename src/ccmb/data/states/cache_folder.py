"""The user's cache of states: a folder for each key, bounded in bytes; the one used longest ago goes first.

A folder that a process uses is locked, so that no other process removes it. The lock of a killed process ends with it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ccmb.core.errors import CcmbError

STATES = "states"
IN_USE = ".in-use"
RESERVE = 2**30  # bytes of the disk that stay free
STALE_SECONDS = 3600.0  # an unfinished file that nobody has written to for so long is left over from a killed process


def user_cache() -> Path:
    """The user's cache folder: $CCMB_CACHE, or `ccmb` in the system's."""
    if own := os.environ.get("CCMB_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ccmb"


class CacheFolder:
    """The folder of one key, in use until it is closed or the process ends.

    Args:
        root: holds the folders of all keys.

    Raises:
        CcmbError: it cannot be written.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.root, self.path = root, root / key
        try:
            self._lock = _shared_lock(self.path)
            os.utime(self.path / IN_USE)
        except OSError as error:
            raise CcmbError(f"{self.path}: could not be written ({error.strerror or error})") from None
        for left in self.path.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()

    def close(self) -> None:
        self._lock.close()

    def make_room(self, size: int, max_bytes: int) -> bool:
        """Remove folders of other keys, those used longest ago first, until `size` more bytes fit.

        Args:
            max_bytes: of all folders together.

        Returns:
            Whether they fit; if they would not whatever is removed, nothing is.
        """
        own = folder_bytes(self.path)
        others = sorted(self._others(), key=_last_use)
        sizes = {folder: folder_bytes(folder) for folder in others}
        total, free = sum(sizes.values()), shutil.disk_usage(self.path).free - RESERVE
        if own + size > max_bytes or size > free + total:
            return False
        for folder in others:
            if own + size + total <= max_bytes and size <= free:
                break
            if _remove(folder):
                total, free = total - sizes[folder], free + sizes[folder]
        return own + size + total <= max_bytes and size <= free

    def clear(self) -> bool:
        """Remove what the folder holds, such as the items of other data; False if another process uses it."""
        import fcntl

        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)  # a failed change may have given up the lock
            return False
        for path in self.path.iterdir():
            if path.name != IN_USE:
                path.unlink()
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return True

    def _others(self) -> Iterator[Path]:
        yield from (folder for folder in self.root.iterdir() if folder.is_dir() and folder != self.path)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for path in folder.iterdir():
        with suppress(OSError):  # another process may rename or remove it
            total += path.stat().st_size
    return total


def _last_use(folder: Path) -> float:
    with suppress(OSError):
        return (folder / IN_USE).stat().st_mtime
    return 0.0


def _shared_lock(folder: Path) -> IO[str]:
    """A lock of the folder that other users share, and those who would remove it do not."""
    import fcntl

    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = open(folder / IN_USE, "a")  # noqa: SIM115 - as long as the folder is used
        except FileNotFoundError:  # removed since
            continue
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(OSError):
            if os.stat(folder / IN_USE).st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
        lock.close()


def _remove(folder: Path) -> bool:
    """Remove a folder that nobody uses; False if somebody does."""
    with _sole_lock(folder) as is_ours:
        if is_ours:
            shutil.rmtree(folder, ignore_errors=True)
        return is_ours


@contextmanager
def _sole_lock(folder: Path) -> Iterator[bool]:
    import fcntl

    try:
        lock = open(folder / IN_USE, "a")  # noqa: SIM115
    except OSError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
