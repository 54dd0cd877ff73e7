"""Images, or URLs of images, in a column of a Parquet file, as in data sets on the Hugging Face hub."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError, one_line
from ccmb.data.images.source import MAX_BYTES, Extent, ImageSource

IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "picture", "img", "image_bytes", "bytes")
URL_COLUMNS = ("url", "URL", "image_url", "ImageUrl", "imageurl")


class ParquetImages(ImageSource):
    """Images named by the index of their row, such as "00000012".

    The column is binary, or a struct with a binary field `bytes`; otherwise it holds strings that are URLs.
    """

    def __init__(self, path: Path) -> None:
        """Open a Parquet file.

        Raises:
            CcmbError: it is not Parquet, or no column holds images or URLs.
        """
        super().__init__(path)
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise CcmbError("reading Parquet needs pyarrow: pip install 'ccmb[search]'") from None
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # what Arrow makes of a damaged file
            raise CcmbError(f"{path}: not a readable Parquet file ({one_line(error)})") from None
        self.column, self.holds_urls = self._find_column()
        self._turn = threading.Lock()
        self._group: tuple[int, Any] = (-1, None)  # number and values of the row group in memory
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = [sum(counts[:group]) for group in range(len(counts) + 1)]

    def _find_column(self) -> tuple[str, bool]:
        import pyarrow as pa

        schema = self._file.schema_arrow

        def holds_bytes(name: str) -> bool:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field("bytes").type
            return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

        images = [name for name in schema.names if holds_bytes(name)]
        for name in (*IMAGE_COLUMNS, *(images if len(images) == 1 else ())):
            if name in images:
                return name, False
        for name in URL_COLUMNS:
            if name in schema.names:
                return name, True
        raise CcmbError(
            f"{self.path}: no column of images ({', '.join(IMAGE_COLUMNS[:4])}, ...) or URLs "
            f"({', '.join(URL_COLUMNS[:3])}, ...); it has: {', '.join(schema.names)}"
        )

    @cached_property
    def names(self) -> list[str]:
        return [f"{row:08d}" for row in range(self._starts[-1])]

    def urls(self) -> list[str]:
        """The URLs of all rows that have one.

        Raises:
            CcmbError: the file is damaged.
        """
        try:
            values = self._file.read(columns=[self.column]).column(0).to_pylist()
        except Exception as error:
            raise CcmbError(f"{self.path}: cannot be read ({one_line(error)})") from None
        return [url for url in values if isinstance(url, str) and url]

    def _find(self, name: str) -> Extent | None:
        known = name.isascii() and name.isdigit() and int(name) < self._starts[-1] and name == f"{int(name):08d}"
        return Extent(str(self.path), 0, 1) if known else None

    def raw(self, name: str) -> bytes:
        if self._find(name) is None:
            raise self._unreadable(name, "no such row")
        row = int(name)
        group = next(index for index, start in enumerate(self._starts[1:]) if row < start)
        with self._turn:
            if self._group[0] != group:
                try:
                    self._group = (group, self._file.read_row_group(group, columns=[self.column]).column(0))
                except Exception as error:
                    raise self._unreadable(name, one_line(error)) from None
            value = self._group[1][row - self._starts[group]].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise self._unreadable(name, "the row has no image")
        if len(data) > MAX_BYTES:
            raise self._unreadable(name, f"{len(data):,} bytes are more than the {MAX_BYTES:,} allowed")
        return bytes(data)
