"""A copy of a local store in memory, for searches without the store's overhead of some 50 ms.

The store remains the authority. When an index is opened, the memory is loaded from a second copy, one SQLite file,
since Milvus Lite takes minutes to return a million vectors. A write has three steps: the file notes the rows that are
about to change, the store is written, and the file gets the new rows and drops the notes. So a file with notes was left
by a killed process, and those rows are read from the store again. A file that is damaged or missing is made anew.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.search.coarse import CoarseVectors
from ccmb.search.field_columns import Columns
from ccmb.search.query import Test
from ccmb.search.vector_store import Entry, Neighbour, VectorStore, batched, folder_of

_AT_ONCE = 500
_READ_AT_ONCE = 5000
_QUERIES_AT_ONCE = 16
_NARROW = 0.1  # share of the rows: if fewer pass, only their vectors are multiplied
_FIELDS = tuple(field.name for field in fields(Entry))
_ENTRY = ", ".join(_FIELDS)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, {_ENTRY}, embed BLOB);
CREATE INDEX IF NOT EXISTS entries_of_source ON entries (source);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS whole (yes INTEGER);
"""


class MemoryStore:
    """A `Store` whose reads are from memory. It and the store belong to one process."""

    max_results: int | None = None

    def __init__(self, store: VectorStore, path: Path, coarse_dim: int | None = None) -> None:
        """Load a store into memory, and make its file anew if needed.

        Args:
            coarse_dim: see `CoarseVectors`; None: whole vectors are scanned.

        Raises:
            UsageError: see `CoarseVectors`.
            CcmbError: the store fails, or the file cannot be written.
        """
        self.store, self.path, self.dim, self.coarse_dim = store, path, store.dim, coarse_dim
        self._clear()
        try:
            self._open()
            self._load()
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError):
            self._start_anew()

    def _clear(self) -> None:
        self._keys: list[str] = []
        self._row_of: dict[str, int] = {}
        self._columns = Columns()
        self._embed_CD = torch.empty(0, self.dim)  # C rows, of which the first len(_keys) count
        self._coarse = None if self.coarse_dim is None else CoarseVectors(self.coarse_dim, self.dim)

    def _open(self) -> None:
        with self._one_line_errors():
            self._file = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        # Rows that a power cut takes from the file are noticed by the count of rows, at worst.
        self._file.execute("PRAGMA synchronous = NORMAL")
        self._file.executescript(_TABLES)

    def _start_anew(self) -> None:
        with suppress(AttributeError, sqlite3.Error):
            self._file.close()
        for left in self.path.parent.glob(f"{self.path.name}*"):
            left.unlink()
        self._clear()
        try:
            self._open()
            self._load()
        except sqlite3.DatabaseError as error:
            raise CcmbError(f"{self.path}: could not be written ({error})") from None

    def _load(self) -> None:
        """Update the file and the memory from the store."""
        noted = [key for (key,) in self._file.execute("SELECT key FROM notes")]
        if noted:
            self._write(noted, *self._stored(noted))
        (count,) = self._file.execute("SELECT count(*) FROM entries").fetchone()
        if not self._file.execute("SELECT count(*) FROM whole").fetchone()[0] or count != len(self.store):
            self._copy_store()
        self._read()

    def _read(self) -> None:
        """Update the memory from the file."""
        (count,) = self._file.execute("SELECT count(*) FROM entries").fetchone()
        self._reserve(count)
        cursor = self._file.execute("SELECT key, source, name, date, width, height, bytes, own, embed FROM entries")
        while rows := cursor.fetchmany(_READ_AT_ONCE):
            key, source, name, date, width, height, size, own, embed = zip(*rows, strict=True)
            start, end = len(self._keys), len(self._keys) + len(rows)
            self._keys += key
            self._row_of.update(zip(key, range(start, end), strict=True))
            self._embed_CD[start:end] = torch.frombuffer(bytearray(b"".join(embed)), dtype=torch.float32).view(
                len(rows), -1
            )
            if self._coarse is not None:
                self._coarse.put(slice(start, end), self._embed_CD[start:end])
            folder = [folder_of(*path) for path in zip(source, name, strict=True)]
            columns = {"folder": folder, "date": date, "width": width, "height": height, "bytes": size}
            owned = {index: json.loads(text) for index, text in enumerate(own) if text != "{}"}
            for field in {field for path in owned.values() for field in path}:
                columns[field] = [owned.get(index, {}).get(field) for index in range(len(rows))]
            self._columns.fill(start, columns)

    def _stored(self, keys: Sequence[str]) -> tuple[list[Entry], Tensor]:
        held, embeds = self.store.get(keys), self.store.embeds(keys)
        return list(held.values()), torch.stack([embeds[key] for key in held]) if held else self._embed_CD[:0]

    def _copy_store(self) -> None:
        with self._one_line_errors():
            self._file.execute("DELETE FROM whole")
            self._file.execute("DELETE FROM entries")
            with progress("reading the store", len(self.store), "images") as advance:
                held: list[tuple[Entry, Sequence[float]]] = []
                for pair in self.store.everything():
                    held.append(pair)
                    if len(held) == _AT_ONCE:
                        self._copy(held)
                        advance(len(held))
                        held = []
                self._copy(held)
                advance(len(held))
            self._file.execute("INSERT INTO whole VALUES (1)")

    def _copy(self, held: Sequence[tuple[Entry, Sequence[float]]]) -> None:
        if held:
            self._write((), [entry for entry, _ in held], torch.tensor(np.array([embed for _, embed in held])))

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        """See `Store.upsert`."""
        if not entries:
            return
        keys = [entry.key for entry in entries]
        self._note(keys)
        self.store.upsert(entries, embed_BD)
        self._write(keys, entries, embed_BD)
        self._place(keys, entries, embed_BD)

    def delete(self, keys: Sequence[str]) -> int:
        """See `Store.delete`."""
        keys = [key for key in dict.fromkeys(keys) if key in self._row_of]
        if keys:
            self._note(keys)
            self.store.delete(keys)
            self._write(keys, (), self._embed_CD[:0])
        for key in keys:
            row, last = self._row_of.pop(key), len(self._keys) - 1
            moved = self._keys.pop()
            if row < last:
                self._keys[row], self._row_of[moved] = moved, row
                self._embed_CD[row] = self._embed_CD[last]
                if self._coarse is not None:
                    self._coarse.move(last, row)
                self._columns.move(last, row)
        return len(keys)

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """See `Store.get`."""
        entries: dict[str, Entry] = {}
        for part in batched(keys, _AT_ONCE):
            marks = ",".join("?" * len(part))
            with self._one_line_errors():
                rows = self._file.execute(f"SELECT key, {_ENTRY} FROM entries WHERE key IN ({marks})", part).fetchall()
            entries |= {row[0]: _entry(row[1:]) for row in rows}
        return entries

    def embeds(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """See `Store.embeds`."""
        return {key: self._embed_CD[self._row_of[key]].clone() for key in keys if key in self._row_of}

    def of_source(self, source: str) -> Iterator[Entry]:
        """See `Store.of_source`."""
        with self._one_line_errors():
            rows = self._file.execute(f"SELECT {_ENTRY} FROM entries WHERE source = ?", (source,)).fetchall()
        yield from map(_entry, rows)

    def search_many(
        self, embed_QD: Tensor, k: int, tests: Sequence[tuple[Test, ...]] | None = None
    ) -> list[list[Neighbour]]:
        """See `Store.search_many`."""
        count, results = len(self._keys), []
        coarse = self._coarse
        shortlist = None if coarse is None else coarse.shortlist(k, count)
        masks: dict[tuple[Test, ...], Tensor] = {}
        for query_tests in set(tests or ()) - {()}:
            masks[query_tests] = torch.from_numpy(self._columns.mask(query_tests, count))
        for start in range(0, len(embed_QD), _QUERIES_AT_ONCE):
            part_QD = embed_QD[start : start + _QUERIES_AT_ONCE].float()
            query_masks = [
                masks.get(query_tests) for query_tests in (tests or [()] * len(embed_QD))[start : start + len(part_QD)]
            ]
            narrow = [mask is not None and int(mask.sum()) < _NARROW * count for mask in query_masks]
            full_scans = [index for index, alone in enumerate(narrow) if not alone]
            scanned_QD = part_QD[full_scans]
            if coarse is None or shortlist is None:
                scans = _cosines(self._embed_CD[:count], scanned_QD)
            else:
                scans = coarse.scan(scanned_QD, count)
            cosine_QN = dict(zip(full_scans, scans, strict=True))
            for index, mask in enumerate(query_masks):
                rows = mask.nonzero().squeeze(1) if mask is not None and narrow[index] else None
                if rows is not None:
                    cosine = self._embed_CD[rows] @ part_QD[index]
                else:
                    cosine = cosine_QN[index]
                    if mask is not None:
                        cosine = cosine.masked_fill(~mask, -torch.inf)
                    if shortlist is not None:
                        best = cosine.topk(shortlist)
                        rows = best.indices[best.values > -torch.inf]
                        cosine = self._embed_CD[rows] @ part_QD[index]
                results.append(self._best(cosine, rows, k))
        return results

    def _best(self, cosine_N: Tensor, rows_N: Tensor | None, k: int) -> list[Neighbour]:
        best = cosine_N.topk(min(k, len(cosine_N)))
        rows = best.indices if rows_N is None else rows_N[best.indices]
        pairs = zip(rows.tolist(), best.values.tolist(), strict=True)
        return [Neighbour(self._keys[row], cosine) for row, cosine in pairs if cosine > -torch.inf]

    def flush(self) -> None:
        """See `Store.flush`."""
        self.store.flush()
        with self._one_line_errors():
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def __len__(self) -> int:
        return len(self._keys)

    def close(self) -> None:
        """Close the file; whoever opened the store closes it."""
        self._file.close()

    def _note(self, keys: Iterable[str]) -> None:
        with self._one_line_errors():
            self._file.executemany("INSERT OR IGNORE INTO notes VALUES (?)", [(key,) for key in keys])

    def _write(self, noted: Sequence[str], entries: Sequence[Entry], embed_BD: Tensor) -> None:
        """Replace rows of the file, and delete their notes."""
        rows = [
            (entry.key, *(getattr(entry, name) for name in _FIELDS[:-1]), json.dumps(entry.own), embed.tobytes())
            for entry, embed in zip(entries, embed_BD.float().numpy(), strict=True)
        ]
        with self._one_line_errors(), self._transaction():
            self._file.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in noted])
            self._file.executemany(f"INSERT OR REPLACE INTO entries VALUES (?, ?{', ?' * len(_FIELDS)})", rows)
            self._file.executemany("DELETE FROM notes WHERE key = ?", [(key,) for key in noted])

    def _place(self, keys: Sequence[str], entries: Sequence[Entry], embed_BD: Tensor) -> None:
        """Replace or add rows in memory."""
        self._reserve(len(self._keys) + len(keys))
        rows = []
        for key, entry in zip(keys, entries, strict=True):
            row = self._row_of.setdefault(key, len(self._keys))
            if row == len(self._keys):
                self._keys.append(key)
            self._columns.put(row, entry.columns)
            rows.append(row)
        self._embed_CD[rows] = embed_BD.float()
        if self._coarse is not None:
            self._coarse.put(rows, embed_BD)

    def _reserve(self, count: int) -> None:
        if count > len(self._embed_CD):
            capacity = max(count, 3 * len(self._embed_CD) // 2, 64)
            with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside it
                grown_CD = torch.empty(capacity, self.dim)
            grown_CD[: len(self._keys)] = self._embed_CD[: len(self._keys)]
            self._embed_CD = grown_CD
            if self._coarse is not None:
                with torch.inference_mode(False):
                    self._coarse.reserve(capacity, len(self._keys))
            self._columns.reserve(capacity)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._file:  # it commits in the end, or takes all back
            self._file.execute("BEGIN")
            yield

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CcmbError(f"{self.path}: could not be written or read ({error})") from None


def _cosines(embed_ND: Tensor, query_QD: Tensor) -> Tensor:
    """The cosines (Q, N); one query is multiplied as a vector, which reads the matrix only once."""
    if len(query_QD) == 1:
        return (embed_ND @ query_QD[0])[None]
    return query_QD @ embed_ND.T


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(**dict(zip(_FIELDS, (*row[:-1], json.loads(row[-1])), strict=True)))
