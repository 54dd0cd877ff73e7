"""Texts of images from the log's queries, pages and link lists, cleaned and filtered one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import daft
import pyarrow as pa
from daft import DataFrame, DataType, col
from daft import functions as F

from ccmb.corpus.base.daft_engine import Table, each_bucket, hashed, write, write_by_hash
from ccmb.corpus.base.recipe import FIELDS, FieldName, TextRecipe
from ccmb.corpus.texts.filters import TextFilter, filters_of, mojibake, reason_against
from ccmb.corpus.texts.normalize import bare, clean, template

DUPLICATE = "exact duplicate"
TEXT, U64 = DataType.string(), DataType.uint64()
# The columns of a candidate beside its text. If a source lacks a column, it has nulls there.
_STATISTICS = {
    "image": U64, "image_url": TEXT, "image_key": TEXT, "page_url": TEXT,
    "views": U64, "clicks": U64, "bound": DataType.float64(), "score": DataType.float64(),
}  # fmt: skip


class CleanedText(NamedTuple):
    """A cleaned text, the forms it is compared by, and its drop reason (None: it is kept)."""

    field: str | None
    text: str | None
    bare: str | None
    template: str | None
    reason: str | None


class TextCleaner:
    """Cleans and filters the texts of one record."""

    def __init__(self, recipe: TextRecipe) -> None:
        """Open the filters of a recipe.

        Raises:
            CcmbError: the file of sensitive words cannot be read, or OpenCC is not installed.
        """
        self.recipe = recipe
        self.filters: dict[FieldName, list[TextFilter]] = filters_of(recipe)
        clean("體", recipe.to_simplified)  # fails now if OpenCC is missing

    def __call__(self, texts: Iterable[tuple[FieldName, str | None]], reason: str | None) -> list[CleanedText]:
        """A row for each text of a record. A record that is dropped as a whole, or has no text, gets one row."""
        rows = [self.row_of(field, text) for field, text in texts if text] if reason is None else []
        return rows or [CleanedText(None, None, None, None, reason or "no text")]

    def row_of(self, field: FieldName, text: str) -> CleanedText:
        broken = mojibake(text) if self.recipe.drop_mojibake else None
        cleaned = clean(text, self.recipe.to_simplified)
        reason = broken or reason_against(cleaned, self.filters[field])
        return CleanedText(field, cleaned, bare(cleaned), template(cleaned), reason)


def write_candidates(
    records: DataFrame, fields: Sequence[FieldName], recipe: TextRecipe, folder: Path, buckets: int
) -> None:
    """Write a row for each text of the records, in buckets by image.

    Args:
        records: the columns of some fields; any of image_url, image_key, page_url, views, clicks, bound and score; and
            `reason`, which is null unless the record is dropped as a whole.
    """
    clean_texts = TextCleaner(recipe)

    @daft.func.batch(return_dtype=DataType.list(DataType.struct(dict.fromkeys(CleanedText._fields, TEXT))))
    def filtered(reasons: daft.Series, *texts: daft.Series) -> pa.Array:
        rows = zip(reasons.to_pylist(), *(series.to_pylist() for series in texts), strict=True)
        return _as_lists([clean_texts(zip(fields, row_texts, strict=True), reason) for reason, *row_texts in rows])

    @daft.func.batch(return_dtype=TEXT)
    def domain(pages: daft.Series, images: daft.Series) -> list[str | None]:
        return [domain_of(page or image) for page, image in zip(pages.to_pylist(), images.to_pylist(), strict=True)]

    records = records.with_column("image", hashed("image_url"))
    missing = {
        name: daft.lit(None).cast(kind) for name, kind in _STATISTICS.items() if name not in records.column_names
    }
    records = records.with_columns({**missing, "row": filtered(col("reason"), *(col(name) for name in fields))})
    kept = [col(name).cast(kind) for name, kind in _STATISTICS.items()]
    frame = records.select(*kept, "row").explode("row").select(*_STATISTICS, F.unnest(col("row")))
    frame = frame.with_columns(
        {
            "domain": domain(col("page_url"), col("image_url")),
            "key": hashed("bare"),
            "template": F.when(F.not_null(col("template")), hashed("template")).otherwise(None),
            "rank": F.when(col("field") == FIELDS[0], 0).when(col("field") == FIELDS[1], 1)
            .when(col("field") == FIELDS[2], 2).otherwise(3),
        }
    )  # fmt: skip
    write_by_hash(frame.with_column("pair", hashed("image", "key")), folder, "image", buckets)


def _as_lists(rows: list[list[CleanedText]]) -> pa.Array:
    """The rows as an Arrow array of lists: Arrow builds columns many times faster than Daft reads objects."""
    columns = list(zip(*(text for record in rows for text in record), strict=True)) or [()] * 5
    arrays = [pa.array(column, pa.large_string()) for column in columns]
    offsets = pa.array(list(accumulate(map(len, rows), initial=0)), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, CleanedText._fields))


def domain_of(url: str | None) -> str | None:
    """The host of a URL without `www.`, or None if there is none."""
    try:
        host = urlsplit(url or "").hostname
    except ValueError:
        return None
    return host.removeprefix("www.") if host else None


def write_texts(candidates: Table, folder: Path) -> dict[str, int]:
    """Write the kept candidates, with one row for equal texts of an image, and with one key for each image.

    Equal texts may differ in punctuation. Their row has the first field of `FIELDS`, the maximum of each click
    statistic, and the minimum of every other column.

    Returns:
        The number of rows that were dropped as duplicates, by reason.
    """
    again = 0
    for bucket, frame in each_bucket(candidates):
        frame = frame.where(F.is_null(col("reason")))
        by_min = ("image", "key", "template", "image_url", "page_url", "domain", "image_key", "rank", "text", "bare")
        by_max = ("views", "clicks", "bound", "score")
        once = frame.groupby("pair").agg(
            *(col(name).min() for name in by_min), *(col(name).max() for name in by_max),
            (col("key").count() - 1).alias("again"),
        ).collect()  # fmt: skip
        again += int(once.agg(col("again").sum()).to_pydict()["again"][0] or 0)
        keys = once.groupby("image").agg(col("image_key").min().alias("known_key"))
        once = once.exclude("image_key").join(keys, on="image")
        field = F.when(col("rank") == 0, FIELDS[0]).when(col("rank") == 1, FIELDS[1]).when(col("rank") == 2, FIELDS[2])
        once = once.with_columns(
            {
                "image_key": F.coalesce(col("known_key"), _key_of(col("image"))),
                "field": field.otherwise(FIELDS[3]),
            }
        )
        write(once.exclude("known_key", "again"), folder, bucket)
    return {DUPLICATE: again}


@daft.func.batch(return_dtype=TEXT)
def _key_of(images: daft.Series) -> list[str]:
    """The keys of images without a key in any page: the hash of the URL."""
    return [f"{image:016x}" for image in images.to_pylist()]
