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

    text, integer, number = arrow.string(), arrow.int64(), arrow.float64()
    return arrow.schema(
        {
            "row": integer, "from_row": integer, "image_key": text, "place": number, "field": text, "text": text,
            "views": integer, "clicks": integer, "bound": number, "score": number, "page_url": text, "domain": text,
            "reason": text,
        }
    )  # fmt: skip


def images_schema() -> Any:
    import pyarrow as arrow

    text, integer = arrow.string(), arrow.int64()
    return arrow.schema(
        {
            "row": integer, "key": text, "url": text, "status": text, "copy_of": integer, "bytes": integer,
            "sha256": text, "format": text, "width": integer, "height": integer, "stored_bytes": integer,
            "stored_sha256": text, "stored_width": integer, "stored_height": integer, "shape": arrow.uint64(),
            "place": arrow.float64(), "shard": text, "sample": text,
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
