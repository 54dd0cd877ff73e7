"""The parts of a download on disk: finished parts, and parts in progress.

A part of the link list becomes these files in `out/`:

    part-000000.parquet     the index, one row for each link, in the order of the links
    part-000000.tar         the images in the same order, `000000000.jpg` and so on by the index of the row
    times-000000.parquet    how long each row took, and its attempts: only these may differ in a second run
    part-000000.rows        of a part in progress: finished rows with their images, in the order they were finished

Each finished row is appended to the `.rows` file in one write, with a checksum. If a process is killed or the power
fails, an incomplete row at its end is cut off. Once all rows are there, the other three files are made from it, each
atomically. Then the `.rows` file is removed: a part without it is finished.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_path, atomic_write, sync_folder
from ccmb.corpus.download.resize import Prepared
from ccmb.data.images.perceptual_hash import COLOUR_BYTES
from ccmb.data.images.source import ImageSource
from ccmb.fetch.fetcher import is_transient


@dataclass(frozen=True, slots=True)
class Link:
    """A row of the link list: a key that the caller chooses, such as ImageKey, and the URL of an image."""

    key: str
    url: str


@dataclass(slots=True)
class DownloadRow:
    """A finished row of the index, see `Prepared`; `image` is a name in the tar, `colours` is hexadecimal."""

    row: int
    key: str
    url: str
    status: str
    bytes: int | None = None
    sha256: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    image: str | None = None
    stored_bytes: int | None = None
    stored_sha256: str | None = None
    stored_width: int | None = None
    stored_height: int | None = None
    shape: int | None = None
    colours: str | None = None


# The index calls the image "picture".
_FIELDS = {"picture" if field.name == "image" else field.name: field.name for field in fields(DownloadRow)}
_COLUMNS = list(_FIELDS)
_INTEGERS = {"row", "bytes", "width", "height", "stored_bytes", "stored_width", "stored_height"}


def finished_row(row_index: int, link: Link, status: str, size: int, prepared: Prepared | None) -> DownloadRow:
    """The row of the index for a finished link.

    Args:
        size: how many bytes came.
        prepared: the result for these bytes; None if none came.
    """
    row = DownloadRow(row_index, _storable(link.key), _storable(link.url), status)
    if prepared is None:
        return row
    row.bytes = size
    for name in ("sha256", "format", "width", "height", "stored_sha256", "stored_width", "stored_height", "shape"):
        setattr(row, name, getattr(prepared, name))
    if prepared.status == "ok":
        row.image, row.stored_bytes = f"{row_index:09d}.jpg", len(prepared.image)
        row.colours = (prepared.colours or b"").hex()
    return row


class DownloadPart:
    """One part, in progress or finished.

    Its methods raise CcmbError if the files on disk belong to other links, or if they cannot be written.

    Args:
        part_index: index of the part among all parts.
        first: index of its first row among all rows.
        links: the links of all its rows.
    """

    def __init__(self, out: Path, part_index: int, first: int, links: Sequence[Link]) -> None:
        self.first, self.links, self.digest = first, links, _digest(links)
        self.rows_file, self.index = out / f"part-{part_index:06d}.rows", out / f"part-{part_index:06d}.parquet"
        self.tar, self.times = out / f"part-{part_index:06d}.tar", out / f"times-{part_index:06d}.parquet"
        self._file: IO[bytes] | None = None
        self._end = 0  # where the last complete row ends
        # Position and length of the image of each finished row.
        self._locations: dict[int, tuple[int, int]] = {}
        self._rows: dict[int, dict[str, Any]] = {}

    @property
    def finished(self) -> bool:
        """Whether the part is finished."""
        return self.index.exists() and not self.rows_file.exists()

    @property
    def complete(self) -> bool:
        """Whether all rows are done, so that `finish` can be called."""
        return len(self._rows) == len(self.links)

    @property
    def missing(self) -> list[int]:
        """The indices of the rows that are still to be done."""
        return [row for row in range(self.first, self.first + len(self.links)) if row not in self._rows]

    def statuses(self) -> Counter[str]:
        """The number of rows with each status, of a finished part."""
        return Counter(_read(self.index, self.digest, ["status"])["status"])

    def open(self) -> None:
        """Begin the part, or go on where it was interrupted."""
        if not self.rows_file.exists():
            with atomic_write(self.rows_file, "wb") as file:
                file.write(self._header())
        self._read_rows()
        self._file = open(self.rows_file, "r+b", buffering=0)  # noqa: SIM115
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def reopen(self) -> None:
        """Put a finished part in progress again, without the failed rows that may succeed another day."""
        rows = _read(self.index, self.digest, _COLUMNS)
        times = _read(self.times, self.digest, ["seconds", "attempts"])
        images = ImageSource.open(self.tar)
        with atomic_write(self.rows_file, "wb") as file:
            file.write(self._header())
            for at, status in enumerate(rows["status"]):
                if not is_transient(status):
                    row = {name: rows[name][at] for name in _COLUMNS}
                    row["colours"] = row["colours"] and row["colours"].hex()
                    image = images.raw(row["picture"]) if row["picture"] else b""
                    file.write(_record(row | {name: times[name][at] for name in times}, image))

    def add(self, row: DownloadRow, image: bytes, seconds: float, attempts: int) -> None:
        """Append a finished row, in one write."""
        assert self._file is not None
        line = {column: getattr(row, name) for column, name in _FIELDS.items()} | {
            "seconds": round(seconds, 3),
            "attempts": attempts,
        }
        record = _record(line, image)
        try:
            if self._file.write(record) != len(record):
                raise OSError("only a part of a row could be written")
        except OSError as error:
            raise CcmbError(f"{self.rows_file}: could not be written ({error})") from None
        self._end += len(record)
        self._rows[row.row], self._locations[row.row] = line, (self._end - len(image), len(image))

    def finish(self) -> None:
        """Write the index, the images and the times, then remove the `.rows` file."""
        self.close()
        rows = [self._rows[row] for row in sorted(self._rows)]
        with atomic_write(self.tar, "wb") as file, open(self.rows_file, "rb") as source:
            _write_tar(file, ((row["picture"], self._image(source, row["row"])) for row in rows if row["picture"]))
        self._write_table(self.times, rows, ["row", "seconds", "attempts"])
        self._write_table(self.index, rows, _COLUMNS)
        self.rows_file.unlink()
        sync_folder(self.index.parent)
        self._rows, self._locations = {}, {}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _header(self) -> bytes:
        return json.dumps({"rows": len(self.links), "links": self.digest}).encode() + b"\n"

    def _read_rows(self) -> None:
        """Read the complete records, and note where they end."""
        with open(self.rows_file, "rb") as file:
            if file.readline() != self._header():
                raise _other_links(self.rows_file)
            self._end = file.tell()
            while (row := _next_record(file)) is not None:
                size = row["stored_bytes"] or 0
                self._end = file.tell()
                self._rows[row["row"]], self._locations[row["row"]] = row, (self._end - size, size)

    def _image(self, source: IO[bytes], row: int) -> bytes:
        offset, size = self._locations[row]
        source.seek(offset)
        return source.read(size)

    def _write_table(self, path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
        import pyarrow as arrow
        from pyarrow import parquet

        values = {name: [row[name] for row in rows] for name in columns}
        if "colours" in values:
            values["colours"] = [colours and bytes.fromhex(colours) for colours in values["colours"]]
        arrays = {name: arrow.array(values[name], _type(name)) for name in columns}
        table = arrow.table(arrays, metadata={"links": self.digest})
        with atomic_path(path) as temporary:
            parquet.write_table(table, temporary, compression="zstd")


def _storable(text: str) -> str:
    """The text without lone surrogates, which some logs hold and no UTF-8 file can."""
    return text.encode("utf-8", "replace").decode()


def _record(row: dict[str, Any], image: bytes) -> bytes:
    """A line of checksum and JSON, then the image."""
    line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%b %b\n%b" % (_checksum(line, image), line, image)


def _next_record(file: IO[bytes]) -> dict[str, Any] | None:
    """The next complete record, or None if there is none."""
    digest, _, line = file.readline().rstrip(b"\n").partition(b" ")
    try:
        row: dict[str, Any] = json.loads(line)
        image = file.read(row["stored_bytes"] or 0)
    except (ValueError, KeyError, TypeError):
        return None
    return row if _checksum(line, image) == digest else None


def _checksum(line: bytes, image: bytes) -> bytes:
    digest = hashlib.blake2b(line, digest_size=8)
    digest.update(image)
    return digest.hexdigest().encode()


def _write_tar(file: IO[bytes], images: Iterator[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, image in images:
            entry = tarfile.TarInfo(name)
            entry.size = len(image)
            tar.addfile(entry, io.BytesIO(image))


def _type(column: str) -> Any:
    import pyarrow as arrow

    if column in _INTEGERS:
        return arrow.int64()
    others = {
        "shape": arrow.uint64(), "colours": arrow.binary(COLOUR_BYTES),
        "seconds": arrow.float32(), "attempts": arrow.int32(),
    }  # fmt: skip
    return others.get(column, arrow.string())


def _read(path: Path, digest: str, columns: list[str]) -> dict[str, list[Any]]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path, columns=columns)
    except (OSError, ArrowException) as error:
        raise CcmbError(f"{path}: cannot be read ({error}); remove it, and the part is fetched again") from None
    if (table.schema.metadata or {}).get(b"links") != digest.encode():
        raise _other_links(path)
    columns_read: dict[str, list[Any]] = table.to_pydict()
    return columns_read


def _other_links(path: Path) -> CcmbError:
    return CcmbError(f"{path}: belongs to other links; choose another folder or remove this one")


def _digest(links: Sequence[Link]) -> str:
    digest = hashlib.sha256()
    for link in links:
        digest.update(f"{link.key!r} {link.url!r}\n".encode())
    return digest.hexdigest()
