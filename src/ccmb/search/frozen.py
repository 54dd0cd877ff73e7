"""Reading an index in a folder that cannot be written to: a read-only mount, or another user's folder.

Milvus Lite must write locks and logs, so it cannot open the store there. The memory store's file (`mirror.db`) holds
the same data and can be read in place, by any number of processes.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.logs import BARE
from ccmb.search.blob_store import connect_frozen
from ccmb.search.memory_store import MemoryStore
from ccmb.search.vector_store import Entry, Store, VectorStore

_LOG = logging.getLogger(__name__)

MIRROR = "mirror.db"


def is_frozen(folder: Path) -> bool:
    """Whether an index's folder cannot be written to, or a file in it that changes with every opening."""
    written = [folder, *(path for path in (folder / MIRROR, folder / "vectors.db") if path.exists())]
    return not all(os.access(path, os.W_OK) for path in written)


class FrozenMemoryStore(MemoryStore):
    """The memory store of an index that cannot be written to, without the store behind it."""

    def __init__(self, path: Path, dim: int, coarse_dim: int | None = None) -> None:
        """Load the file into memory.

        Raises:
            UsageError: see `MemoryStore`.
            ValueError: the file is damaged, or does not hold everything that the store holds.
        """
        self.path, self.dim, self.coarse_dim = path, dim, coarse_dim
        self._clear()
        try:
            log = Path(f"{path}-wal")
            if not path.exists() or (log.exists() and log.stat().st_size):
                raise ValueError("not there, or not closed in order")
            self._file = connect_frozen(path)
            complete, noted = (
                self._file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("whole", "notes")
            )
            if not complete or noted:
                raise ValueError("behind its store")
            self._read()
        except (OSError, sqlite3.DatabaseError, KeyError, TypeError) as error:
            raise ValueError(str(error)) from None

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        raise refuse_writing(self.path.parent)

    def delete(self, keys: Sequence[str]) -> int:
        raise refuse_writing(self.path.parent)

    def flush(self) -> None:
        """Do nothing: there is nothing to write."""


def refuse_writing(folder: Path) -> CcmbError:
    return CcmbError(f"{folder}: the index cannot be written to; it is mounted read-only, or belongs to another user")


@contextmanager
def open_frozen(folder: Path, store: str, dim: int, collection: str, coarse_dim: int | None = None) -> Iterator[Store]:
    """Open the local store of an index that cannot be written to.

    Its memory store's file is read in place. If that file is incomplete, a temporary copy of it and of the store is
    opened.

    Raises:
        CcmbError: they cannot be read or copied.
    """
    try:
        frozen: FrozenMemoryStore | None = FrozenMemoryStore(folder / MIRROR, dim, coarse_dim)
    except ValueError:
        frozen = None
    if frozen is not None:
        try:
            yield frozen
        finally:
            frozen.close()
        return
    with tempfile.TemporaryDirectory(prefix="ccmb-index-") as temporary:
        copy = Path(temporary)
        _LOG.warning(
            "%s: cannot be written to and was not closed in order; a copy in %s is read", folder, copy, extra=BARE
        )
        try:
            _copy(folder, copy, store)
        except OSError as error:
            raise CcmbError(f"{folder}: could not be copied to {copy} ({error.strerror or error})") from None
        with VectorStore(copy / store, dim, collection) as copied_store:
            memory_store = MemoryStore(copied_store, copy / MIRROR, coarse_dim)
            try:
                yield memory_store
            finally:
                memory_store.close()


def _copy(folder: Path, copy: Path, store: str) -> None:
    """Copy the store and the memory store's files, writable; the lock of another process is not copied."""
    for path in [folder / store, *folder.glob(f"{MIRROR}*")]:
        if path.is_dir():
            shutil.copytree(path, copy / path.name, copy_function=shutil.copyfile)
        elif path.exists():
            shutil.copyfile(path, copy / path.name)
