"""Blob store: bytes by key in one SQLite file, for thumbnails and token states. Losing the file does no harm."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ccmb.core.errors import CcmbError
from ccmb.search.vector_store import batched

_AT_ONCE = 500


def connect_frozen(path: Path) -> sqlite3.Connection:
    """Open an SQLite file that nobody writes to, without locks and without further files beside it."""
    uri = f"file:{quote(os.path.abspath(path))}?immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)


class BlobStore:
    """Bytes by key in a file, which is created on the first write.

    Several threads may use it, and finished writes survive a kill.

    Args:
        frozen: the file cannot be written to, and is only read.
    """

    def __init__(self, path: Path, frozen: bool = False) -> None:
        self.path, self.frozen = path, frozen
        self._turn = threading.Lock()
        self._file: sqlite3.Connection | None = None
        if path.exists():
            with suppress(*([sqlite3.DatabaseError] if frozen else [])):
                self._open()

    def _open(self) -> sqlite3.Connection:
        if self._file is None:
            try:
                self._file = self._connect()
            except sqlite3.DatabaseError:  # damaged
                if self.frozen:
                    raise
                for left in self.path.parent.glob(f"{self.path.name}*"):
                    left.unlink()
                self._file = self._connect()
        return self._file

    def _connect(self) -> sqlite3.Connection:
        if self.frozen:
            return connect_frozen(self.path)
        file = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("CREATE TABLE IF NOT EXISTS blobs (key TEXT PRIMARY KEY, data BLOB)")
        return file

    def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The stored blobs among the given keys; none if the file cannot be read."""
        return dict(self._select("key, data", keys))

    def keys(self, keys: Sequence[str]) -> set[str]:
        """The given keys that are stored."""
        return {key for (key,) in self._select("key", keys)}

    def _select(self, what: str, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        if self._file is not None:
            with self._turn, suppress(sqlite3.DatabaseError):
                for part in batched(keys, _AT_ONCE):
                    marks = ",".join("?" * len(part))
                    rows += self._file.execute(f"SELECT {what} FROM blobs WHERE key IN ({marks})", part)
        return rows

    def put(self, data_by_key: Mapping[str, bytes]) -> None:
        """Write blobs: either all of them or none.

        Raises:
            CcmbError: the file cannot be written.
        """
        with self._one_line_errors():
            self._change("INSERT OR REPLACE INTO blobs VALUES (?, ?)", data_by_key.items())

    def delete(self, keys: Iterable[str]) -> None:
        if self._file is not None:
            with self._one_line_errors():
                self._change("DELETE FROM blobs WHERE key = ?", ((key,) for key in keys))

    def _change(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._turn, self._open() as file:  # which commits in the end, or takes all back
            file.execute("BEGIN")
            file.executemany(statement, rows)

    def size(self) -> int:
        """The total number of bytes stored."""
        if self._file is None:
            return 0
        with self._turn, suppress(sqlite3.DatabaseError):
            return int(self._file.execute("SELECT coalesce(sum(length(data)), 0) FROM blobs").fetchone()[0])
        return 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CcmbError(f"{self.path}: could not be written ({error})") from None
