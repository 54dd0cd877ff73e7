"""Where the vectors of an index live: a Milvus Lite file in its folder, or a Milvus server behind a URI.

Both speak through the same client, so nothing else in the package knows which one it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ccmb.errors import CcmbError

COLLECTION = "pictures"
MOST_RESULTS = 16_384  # what a Milvus server returns at most
_LONGEST_PATH = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of an index.

    Attributes:
        source: absolute path of its folder or tar.
        name: its name in there.
        stamp: changes when the picture does.
    """

    source: str
    name: str
    stamp: str = ""

    @property
    def key(self) -> str:
        """Primary key: the same picture always takes the same row, so that writing it twice makes no double."""
        return hashlib.sha256(f"{self.source}\0{self.name}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry that was found, and the cosine of its embedding with the query's."""

    entry: Entry
    cosine: float


class VectorStore:
    """Unit vectors of pictures, searched exactly by cosine (flat index). Close it, or use it in a `with` statement.

    A file takes one process at a time, and within it one VectorStore.

    What `upsert` has returned from survives a crash; `flush` makes it fast to search.

    Raises:
        CcmbError: from any method, if the store is held by another process, damaged, or cannot be reached.
    """

    def __init__(self, uri: str | Path, dim: int) -> None:
        """Open the store, or create it.

        Args:
            uri: path of a file ending in ".db", or `http://host:port` of a Milvus server.
            dim: width D of the vectors.
        """
        self.uri = str(uri)
        self._client = _connect(self.uri)
        with ExitStack() as until_open:
            until_open.callback(self.close)
            with self._one_line_errors():
                if not self._client.has_collection(COLLECTION):
                    self._create(dim)
                self._client.load_collection(COLLECTION)
            until_open.pop_all()  # nothing failed: the store stays open

    def _create(self, dim: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("source", DataType.VARCHAR, max_length=_LONGEST_PATH)
        schema.add_field("name", DataType.VARCHAR, max_length=_LONGEST_PATH)
        schema.add_field("stamp", DataType.VARCHAR, max_length=64)
        schema.add_field("embed", DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index("embed", index_type="FLAT", metric_type="COSINE")
        self._client.create_collection(COLLECTION, schema=schema, index_params=index, consistency_level="Strong")

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        """Write B entries; one that is there already is replaced."""
        rows = [
            {"key": entry.key, "source": entry.source, "name": entry.name, "stamp": entry.stamp, "embed": embed}
            for entry, embed in zip(entries, embed_BD.float().numpy(), strict=True)
        ]
        if rows:
            with self._one_line_errors():
                self._client.upsert(COLLECTION, rows)

    def stamps(self, entries: Sequence[Entry], batch: int = 1000) -> dict[str, str]:
        """Stored stamps, by key, of those entries that the store holds."""
        found: dict[str, str] = {}
        with self._one_line_errors():
            for start in range(0, len(entries), batch):
                keys = [entry.key for entry in entries[start : start + batch]]
                rows = self._client.get(COLLECTION, ids=keys, output_fields=["key", "stamp"])
                found |= {row["key"]: row["stamp"] for row in rows}
        return found

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Those entries of these keys that the store holds, by key."""
        with self._one_line_errors():
            rows = self._client.get(COLLECTION, ids=list(keys), output_fields=["source", "name", "stamp"])
        entries = [Entry(row["source"], row["name"], row["stamp"]) for row in rows]
        return {entry.key: entry for entry in entries}

    def embed(self, key: str) -> Tensor:
        """(D,) the vector of an entry.

        Raises:
            CcmbError: there is none of this key.
        """
        with self._one_line_errors():
            rows = self._client.get(COLLECTION, ids=[key], output_fields=["embed"])
        if not rows:
            raise CcmbError(f"{key}: no such picture in the index")
        return torch.tensor(rows[0]["embed"], dtype=torch.float32)

    def search(self, embed_D: Tensor, k: int) -> list[Neighbour]:
        """The k entries (at most 16,384) of highest cosine with the vector, best first."""
        return self.search_many(embed_D[None], k)[0]

    def search_many(self, embed_QD: Tensor, k: int) -> list[list[Neighbour]]:
        """The same for Q vectors in one call, which is far cheaper than Q calls."""
        if not len(embed_QD):
            return []
        with self._one_line_errors():
            found = self._client.search(
                COLLECTION,
                embed_QD.float().tolist(),
                limit=min(k, MOST_RESULTS),
                output_fields=["source", "name", "stamp"],
            )
        return [[Neighbour(Entry(**row["entity"]), row["distance"]) for row in rows] for rows in found]

    def flush(self) -> None:
        """Move new rows from the write-ahead log into searchable segments."""
        with self._one_line_errors():
            self._client.flush(COLLECTION)

    def __len__(self) -> int:
        with self._one_line_errors():
            (row,) = self._client.query(COLLECTION, filter="", output_fields=["count(*)"])
        return int(row["count(*)"])

    def close(self) -> None:
        """Let go of the store; other processes can open it then."""
        self._client.close()
        if is_local(self.uri):
            # The client leaves the embedded server running, and with it the lock, until the process ends.
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            raise CcmbError(f"{self.uri}: the store failed ({_first_line(error)})") from None


def is_local(uri: str) -> bool:
    """Whether the store is a file of Milvus Lite rather than a server."""
    return "://" not in uri


def _connect(uri: str) -> Any:
    """A MilvusClient that logs nothing: what goes wrong is raised, in one line."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import milvus_lite  # noqa: F401
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise CcmbError("searching needs pymilvus and milvus-lite: pip install 'ccmb[search]'") from None
    for name in ("pymilvus", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _logged_errors("milvus_lite") as logged:
        try:
            return MilvusClient(uri, timeout=10)
        except (MilvusException, OSError) as error:
            # The client says no more than that opening failed; the embedded server's log has the cause.
            cause = logged[0] if logged else error
    if type(cause).__name__ == "DataDirLockedError":
        raise CcmbError(f"{uri}: in use by another process; wait until it has finished")
    raise CcmbError(f"{uri}: the store cannot be opened ({_first_line(cause)})")


@contextmanager
def _logged_errors(logger_name: str) -> Iterator[list[BaseException]]:
    """Keep a library's log off the terminal, and collect the exceptions that it writes there."""
    caught: list[BaseException] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                caught.append(record.exc_info[1])

    logger, handler = logging.getLogger(logger_name), Catch()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield caught
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _first_line(error: BaseException) -> str:
    message = str(getattr(error, "message", "") or error).strip()
    return message.splitlines()[0] if message else type(error).__name__
