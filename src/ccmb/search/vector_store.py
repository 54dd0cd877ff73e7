"""The vector store of an index: a Milvus Lite file in its folder, or a Milvus server behind a URI.

Both have the same client, so nothing else in the package depends on which one it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_path
from ccmb.core.hashing import sha256_of_bytes
from ccmb.search.filters import expression
from ccmb.search.query import FieldValue, Test, TextTest

COLLECTION = "pictures"
MAX_RESULTS = 16_384  # the most results that a Milvus server returns
SECONDS = 30.0  # the time that a server has for an answer
_LONGEST_PATH = 4096  # bytes
_AT_ONCE = 1000  # rows asked for by key
_COLUMNS = (
    "key", "source", "name", "folder", "stamp", "digest", "looks", "date", "width", "height", "bytes", "own",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of an index.

    Attributes:
        source: absolute path of its folder, tar or Parquet file; relative to the index for the index's own copies.
        name: its name within the source.
        stamp: changes when the file does.
        digest: of its bytes.
        looks: its fingerprint (`ccmb.data.images.perceptual_hash`) in hexadecimal digits.
        date: when it was taken, or its file changed, in seconds; None if unknown.
        width, height: in pixels, upright.
        bytes: of its file.
        own: the user fields.
    """

    source: str
    name: str
    stamp: str = ""
    digest: str = ""
    looks: str = ""
    date: int | None = None
    width: int = 0
    height: int = 0
    bytes: int = 0
    own: Mapping[str, FieldValue] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The primary key: the same image always gets the same row, so writing it twice makes no duplicate."""
        return key_of(self.source, self.name)

    @property
    def folder(self) -> str:
        """The folder of the image: its source and the folders within."""
        return folder_of(self.source, self.name)

    @property
    def columns(self) -> dict[str, FieldValue]:
        """The fields that conditions can name, as they are stored: the date in seconds."""
        dated = {} if self.date is None else {"date": self.date}
        sizes = {"width": self.width, "height": self.height, "bytes": self.bytes}
        return {**self.own, "folder": self.folder, **dated, **sizes}


def folder_of(source: str, name: str) -> str:
    inside = name.rpartition("/")[0]
    return f"{source.rstrip('/')}/{inside}" if inside else source


def key_of(source: str, name: str) -> str:
    return sha256_of_bytes(f"{source}\0{name}".encode())[:32]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The key of a similar image, and the cosine of its embedding and the query's."""

    key: str
    cosine: float


class Store(Protocol):
    """A store of the entries and vectors of an index: a `VectorStore`, or a `MemoryStore` in front of one.

    Every method raises a CcmbError if the store cannot be reached or fails.

    Attributes:
        max_results: the most entries that a search returns; None for no limit.
    """

    max_results: int | None

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        """Write B entries; existing ones are replaced."""

    def delete(self, keys: Sequence[str]) -> int:
        """Remove entries, and return how many there were."""

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of the given keys, by key; keys without an entry are left out."""

    def embeds(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The vectors (D,) of the given keys, by key."""

    def of_source(self, source: str) -> Iterator[Entry]:
        """All entries of a source."""

    def search_many(
        self, embed_QD: Tensor, k: int, tests: Sequence[tuple[Test, ...]] | None = None
    ) -> list[list[Neighbour]]:
        """The k entries with the highest cosine for each of Q unit vectors, best first. The search is exact.

        Args:
            tests: what the entries for each vector must pass.

        Raises:
            UsageError: k is more than `max_results`.
        """

    def flush(self) -> None:
        """Make new entries fast to read."""

    def __len__(self) -> int: ...


class VectorStore:
    """Unit vectors of images, searched exactly by cosine (flat index). Close it, or use it in a `with` statement.

    A file can be open in one process at a time, and there in one VectorStore. Rows survive a crash once `upsert` has
    returned; `flush` makes them fast to search.

    Raises:
        CcmbError: from any method, if the store is held by another process, damaged, or cannot be reached.
    """

    max_results: int | None = MAX_RESULTS

    def __init__(self, uri: str | Path, dim: int, collection: str = COLLECTION) -> None:
        """Open the store, or create it.

        Args:
            uri: path of a file ending in ".db", or `http://host:port` of a Milvus server; if that needs a token or
                "user:password", set $MILVUS_TOKEN.
            dim: width D of the vectors.
            collection: name of the collection on the server.
        """
        self.uri, self.dim, self.collection = str(uri), dim, collection
        self._failed = False
        if is_local(self.uri) and not os.path.exists(self.uri):
            # Milvus Lite cannot open a file if it was killed or ran out of disk while creating its collection.
            with atomic_path(self.uri) as temporary:
                self._open(f"{temporary}.db")
                self._close(f"{temporary}.db")
                os.replace(f"{temporary}.db", temporary)
        self._open(self.uri)

    def _open(self, uri: str) -> None:
        self._client = _connect(uri)
        with ExitStack() as until_open:
            until_open.callback(self._close, uri)
            with self._one_line_errors():
                if not self._client.has_collection(self.collection):
                    self._create(self.dim)
                self._check_form()
                self._client.load_collection(self.collection)
            until_open.pop_all()  # nothing failed: the store stays open

    def _create(self, dim: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=32)
        for name in ("source", "name", "folder"):
            schema.add_field(name, DataType.VARCHAR, max_length=_LONGEST_PATH)
        for name, longest in (("stamp", 64), ("digest", 32), ("looks", 128)):
            schema.add_field(name, DataType.VARCHAR, max_length=longest)
        schema.add_field("date", DataType.INT64, nullable=True)
        for name in ("width", "height", "bytes"):
            schema.add_field(name, DataType.INT64)
        schema.add_field("own", DataType.JSON)
        schema.add_field("embed", DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index("embed", index_type="FLAT", metric_type="COSINE")
        self._client.create_collection(self.collection, schema=schema, index_params=index, consistency_level="Strong")

    def _check_form(self) -> None:
        columns = {column["name"]: column for column in self._client.describe_collection(self.collection)["fields"]}
        if not {*_COLUMNS, "embed"} <= columns.keys():
            raise CcmbError(f"{self.uri}: an index of another form or version; index the images into a new folder")
        if (dim := int(columns["embed"]["params"]["dim"])) != self.dim:
            raise CcmbError(f"{self.uri}: its vectors have {dim} numbers, the model's {self.dim}; index anew")

    def upsert(self, entries: Sequence[Entry], embed_BD: Tensor) -> None:
        """Write B entries; existing ones are replaced."""
        rows = [
            {**{name: getattr(entry, name) for name in _COLUMNS}, "own": dict(entry.own), "embed": embed}
            for entry, embed in zip(entries, embed_BD.float().numpy(), strict=True)
        ]
        if rows:
            with self._one_line_errors():
                self._client.upsert(self.collection, rows, timeout=SECONDS)

    def delete(self, keys: Sequence[str]) -> int:
        """Remove entries, and return how many there were."""
        held = [key for part in batched(keys, _AT_ONCE) for key in self.get(part)]
        with self._one_line_errors():
            for part in batched(held, _AT_ONCE):
                self._client.delete(self.collection, ids=part, timeout=SECONDS)
        return len(held)

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of the given keys, by key; keys without an entry are left out."""
        return {row["key"]: _entry(row) for row in self._rows(keys, _COLUMNS)}

    def embeds(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The vectors (D,) of the given keys, by key."""
        rows = self._rows(keys, ("key", "embed"))
        return {row["key"]: torch.tensor(row["embed"], dtype=torch.float32) for row in rows}

    def _rows(self, keys: Sequence[str], columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        with self._one_line_errors():
            for part in batched(keys, _AT_ONCE):
                yield from self._client.get(self.collection, ids=part, output_fields=list(columns), timeout=SECONDS)

    def of_source(self, source: str) -> Iterator[Entry]:
        """All entries of a source."""
        yield from map(_entry, self._all(expression([TextTest("source", (source,))]), _COLUMNS))

    def everything(self) -> Iterator[tuple[Entry, Sequence[float]]]:
        """All entries with their vectors."""
        for row in self._all("", (*_COLUMNS, "embed")):
            yield _entry(row), row["embed"]

    def _all(self, only: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        with self._one_line_errors():
            iterator = self._client.query_iterator(
                self.collection, batch_size=_AT_ONCE, filter=only, output_fields=list(columns), timeout=SECONDS
            )
            try:
                while rows := iterator.next():
                    yield from rows
            finally:
                iterator.close()

    def search_many(
        self, embed_QD: Tensor, k: int, tests: Sequence[tuple[Test, ...]] | None = None
    ) -> list[list[Neighbour]]:
        """See `Store.search_many`. Vectors with the same tests share one call, which is far cheaper."""
        if k > MAX_RESULTS:
            raise UsageError(f"{k:,} hits are more than the {MAX_RESULTS:,} that Milvus gives; ask for fewer")
        neighbours: list[list[Neighbour]] = [[] for _ in embed_QD]
        groups: dict[str, list[int]] = {}
        for index in range(len(embed_QD)):
            groups.setdefault(expression(tests[index]) if tests else "", []).append(index)
        for only, indices in groups.items():
            with self._one_line_errors():
                results = self._client.search(
                    self.collection, embed_QD[indices].float().tolist(), filter=only, limit=k,
                    output_fields=["key"], timeout=SECONDS,
                )  # fmt: skip
            for index, rows in zip(indices, results, strict=True):
                neighbours[index] = [Neighbour(row["entity"]["key"], row["distance"]) for row in rows]
        return neighbours

    def flush(self) -> None:
        """Move new rows from the write-ahead log into searchable segments."""
        with self._one_line_errors():
            self._client.flush(self.collection)

    def __len__(self) -> int:
        with self._one_line_errors():
            (row,) = self._client.query(self.collection, filter="", output_fields=["count(*)"])
        return int(row["count(*)"])

    def close(self) -> None:
        """Close the store, so that other processes can open it."""
        self._close(self.uri)

    def _close(self, uri: str) -> None:
        self._client.close()
        if is_local(uri):
            # The client leaves the embedded server running, and with it the lock, until the process ends.
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        if self._failed:
            # Open it again: a server may be back, and rows written after half a row (a full disk) would be lost in a
            # crash.
            self._failed = False
            self.close()
            self._open(self.uri)
        try:
            yield
        except MilvusException as error:
            self._failed = True
            raise CcmbError(f"{self.uri}: the store failed ({_first_line(error)})") from None


def batched(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(**{name: row[name] for name in _COLUMNS if name not in ("key", "folder")})


def is_local(uri: str) -> bool:
    """Whether the store is a file of Milvus Lite rather than a server."""
    return "://" not in uri


def _connect(uri: str) -> Any:
    """A MilvusClient that logs nothing; errors are raised in one line."""
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
            return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10)
        except (MilvusException, OSError) as error:
            # The client only says that opening failed; the embedded server's log has the cause.
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
