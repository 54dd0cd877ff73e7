"""An index in a folder that cannot be written to: a read-only mount, or one of another user.

Milvus Lite has to lock and to log, and cannot open it. The mirror holds all that the store does, and can be read where
it is; any number of processes may do so.
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
from ccmb.search.memory_store import Mirror
from ccmb.search.vector_store import Entry, Store, VectorStore

_LOG = logging.getLogger(__name__)

MIRROR = "mirror.db"


def is_frozen(folder: Path) -> bool:
    """Whether an index's folder, or a file in it that changes with every opening, cannot be written to."""
    written = [folder, *(path for path in (folder / MIRROR, folder / "vectors.db") if path.exists())]
    return not all(os.access(path, os.W_OK) for path in written)


class FrozenMirror(Mirror):
    """The mirror of an index that cannot be written to, without its store."""

    def __init__(self, path: Path, dim: int) -> None:
        """
        Raises:
            ValueError: it does not hold all that the store does, or is damaged.
        """
        self.path, self.dim = path, dim
        self._clear()
        try:
            log = Path(f"{path}-wal")
            if not path.exists() or (log.exists() and log.stat().st_size):
                raise ValueError("not there, or not closed in order")
            self._file = connect_frozen(path)
            whole, noted = (self._file.execute(f"SELECT count(*) FROM {of}").fetchone()[0] for of in ("whole", "notes"))
            if not whole or noted:
                raise ValueError("behind its store")
            self._read()
        except (OSError, sqlite3.DatabaseError, KeyError, TypeError) as error:
            raise ValueError(str(error)) from None

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        raise refuse_writing(self.path.parent)

    def delete(self, keys: Sequence[str]) -> int:
        raise refuse_writing(self.path.parent)

    def flush(self) -> None:
        """There is nothing to write."""


def refuse_writing(folder: Path) -> CcmbError:
    return CcmbError(f"{folder}: the index cannot be written to; it is mounted read-only, or belongs to another user")


@contextmanager
def open_frozen(folder: Path, store: str, dim: int, collection: str) -> Iterator[Store]:
    """The local store of an index that cannot be written to: its mirror, or a copy of both where that has not all.

    Raises:
        CcmbError: they cannot be read or copied.
    """
    try:
        frozen: FrozenMirror | None = FrozenMirror(folder / MIRROR, dim)
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
        with VectorStore(copy / store, dim, collection) as whole:
            mirror = Mirror(whole, copy / MIRROR)
            try:
                yield mirror
            finally:
                mirror.close()


def _copy(folder: Path, copy: Path, store: str) -> None:
    """The store and what there is of its mirror, writable; the lock of another process stays behind."""
    for path in [folder / store, *folder.glob(f"{MIRROR}*")]:
        if path.is_dir():
            shutil.copytree(path, copy / path.name, copy_function=shutil.copyfile)
        elif path.exists():
            shutil.copyfile(path, copy / path.name)
