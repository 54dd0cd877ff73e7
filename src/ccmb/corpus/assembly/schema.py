"""The columns of a corpus's index, and how its tables are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ccmb.core.files import atomic_path


def filtered_schema() -> Any:
    """The columns of filtered pairs.

    `row` is the row of the image in the download, `from_row` that of the image which the text came with. `place` is
    the sample position. `views`, `clicks` and `bound` are the click statistics. `reason` is null for pairs that stay.
    """
    import pyarrow as arrow

    text, whole, real = arrow.string(), arrow.int64(), arrow.float64()
    return arrow.schema(
        {
            "row": whole, "from_row": whole, "image_key": text, "place": real, "field": text, "text": text,
            "views": whole, "clicks": whole, "bound": real, "score": real, "page_url": text, "domain": text,
            "reason": text,
        }
    )  # fmt: skip


def images_schema() -> Any:
    import pyarrow as arrow

    text, whole = arrow.string(), arrow.int64()
    return arrow.schema(
        {
            "row": whole, "key": text, "url": text, "status": text, "copy_of": whole, "bytes": whole, "sha256": text,
            "format": text, "width": whole, "height": whole, "stored_bytes": whole, "stored_sha256": text,
            "stored_width": whole, "stored_height": whole, "shape": arrow.uint64(), "place": arrow.float64(),
            "shard": text, "sample": text,
        }
    )  # fmt: skip


def pairs_schema() -> Any:
    import pyarrow as arrow

    return filtered_schema().append(arrow.field("model_score", arrow.float32()))


def write_rows(rows: list[dict[str, Any]], schema: Any, path: Path) -> None:
    """Write rows as a Parquet file, atomically."""
    import pyarrow as arrow
    from pyarrow import parquet

    with atomic_path(path) as temporary:
        parquet.write_table(arrow.Table.from_pylist(rows, schema), temporary, compression="zstd")
