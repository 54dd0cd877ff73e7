"""Daft as the steps use it: the runner, tables on disk, and a process of its own.

Daft's native runner holds in memory all that a group-by, a join or a sort needs. It does not spill. So a step of many
rows writes them into buckets by the hash of a key and works on one bucket after the other. It needs the memory of one
bucket, however many buckets there are. A Ray cluster spills when it shuffles, so one large bucket is enough there.

This module works around two faults of Daft 0.7.26. A group-by over several keys loses rows if none of its aggregates is
used afterwards, for example if rows are only counted or a key is selected. So each group-by is written in full before
anything reads it. And the native runner at times crashes when the interpreter ends. So end by `run_in_process` or
`leave`.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import daft
import pyarrow as pa
import pyarrow.parquet as parquet
from daft import DataFrame, DataType, Expression, col
from daft import functions as F

from ccmb.core.errors import CcmbError, one_line

ROWS_PER_BUCKET = 2_000_000
# Each bucket's writer holds up to a row group, in bytes before compression.
_ROW_GROUP = 16 << 20
_ROWS_OF_A_GROUP = 65_536
_failures: list[CcmbError] = []
_EMPTY = "schema.parquet"


def use_runner(ray: str | None = None) -> None:
    """Choose where tables are worked on: this machine, or an existing Ray cluster by its address.

    Raises:
        CcmbError: Ray is not installed, or another runner has been used in this process.
    """
    _set_runner(ray)


@cache  # Daft refuses a second call
def _set_runner(ray: str | None) -> None:
    try:
        if ray is None:
            daft.set_runner_native()
        else:
            daft.set_runner_ray(ray)
    except ImportError:
        raise CcmbError("a Ray cluster needs ray: pip install 'daft[ray]'") from None
    except Exception as error:
        raise CcmbError(f"Daft's runner could not be set: {one_line(error)}") from None
    # 0 reads as many files at a time as there are cores. The default, eight, holds the rows of eight files.
    daft.set_execution_config(parquet_target_row_group_size=_ROW_GROUP, scantask_max_parallel=0)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in a folder of Parquet files, in one or several buckets.

    Daft writes no file if there are no rows. So a file without rows lies beside the buckets and holds the columns.
    """

    folder: Path
    buckets: int = 1

    def read(self, bucket: int | None = None) -> DataFrame:
        """One bucket, or all rows."""
        files = [self.folder / _EMPTY, *self._files(bucket)]
        return daft.read_parquet([str(file) for file in files])

    def rows(self, bucket: int | None = None) -> int:
        """The number of rows, read from the metadata of the files."""
        return sum(parquet.read_metadata(file).num_rows for file in self._files(bucket))

    def _files(self, bucket: int | None) -> list[Path]:
        return sorted(self.folder.glob("bucket=*/*.parquet" if bucket is None else f"bucket={bucket}/*.parquet"))


def write(frame: DataFrame, folder: Path, bucket: int = 0) -> Table:
    """Add rows to one bucket of a table."""
    _write_columns(frame, folder)
    frame.write_parquet(str(folder / f"bucket={bucket}"), compression="zstd")
    return Table(folder)


def write_by_hash(frame: DataFrame, folder: Path, key: str, buckets: int) -> Table:
    """Add rows to a table; the hash in the column `key` decides the bucket of each row."""
    if buckets == 1:
        return write(frame, folder)
    _write_columns(frame, folder)
    frame = frame.with_column("bucket", bucket_of(col(key), buckets))
    frame.write_parquet(str(folder), compression="zstd", partition_cols=["bucket"])
    return Table(folder, buckets)


def write_in_order(frame: DataFrame, path: Path) -> None:
    """Write sorted rows as one file, whose bytes depend on the rows alone.

    Daft's own writers do not guarantee that: on a cluster they write several files, and parts of any size.
    """
    schema = frame.schema().to_pyarrow_schema()
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        held = schema.empty_table()
        for batch in frame.to_arrow_iter():
            held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(schema)])
            while held.num_rows >= _ROWS_OF_A_GROUP:
                writer.write_table(held.slice(0, _ROWS_OF_A_GROUP).combine_chunks(), row_group_size=_ROWS_OF_A_GROUP)
                held = held.slice(_ROWS_OF_A_GROUP)
        writer.write_table(held.combine_chunks(), row_group_size=_ROWS_OF_A_GROUP)


def each_bucket(table: Table) -> Iterator[tuple[int, DataFrame]]:
    """The buckets that hold rows, and always the first one, so that a table without rows gives one bucket."""
    for bucket in range(table.buckets):
        if bucket == 0 or table.rows(bucket):
            yield bucket, table.read(bucket)


def _write_columns(frame: DataFrame, folder: Path) -> None:
    empty = folder / _EMPTY
    if not empty.exists():
        folder.mkdir(parents=True, exist_ok=True)
        parquet.write_table(frame.schema().to_pyarrow_schema().empty_table(), empty)


def bucket_of(hashed: Expression, buckets: int) -> Expression:
    """The bucket of each hash. Buckets are in the order of the hashes, so rows sorted in each are sorted over all."""
    return F.shift_right(top_half(hashed) * buckets, daft.lit(32)).cast(DataType.int32())


def top_half(hashed: Expression) -> Expression:
    """The upper 32 bits of a hash, as a signed integer, so that it can be compared with literals."""
    return F.shift_right(hashed, daft.lit(32).cast(DataType.uint64())).cast(DataType.int64())


def buckets_for(rows: int, rows_per_bucket: int) -> int:
    return max(1, math.ceil(rows / rows_per_bucket))


def hashed(*columns: str, seed: int = 0) -> Expression:
    """The 64-bit XXH3 hash of the UTF-8 of one column, or of several columns."""
    return F.hash(*(col(name) for name in columns), seed=seed)


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all frames, which have the same columns."""
    first, *others = frames
    for other in others:
        first = first.concat(other.select(*first.column_names))
    return first


def counts_by(frame: DataFrame, key: str, *sums: str) -> dict[Any, tuple[int, ...]]:
    """The number of rows, and sums of columns, for each value of a key that has few values."""
    groups = frame.groupby(key).agg(col(key).count(mode="all").alias("rows"), *(col(name).sum() for name in sums))
    table = groups.to_pydict()
    return {
        value: (rows, *(table[name][at] or 0 for name in sums))
        for at, (value, rows) in enumerate(zip(table[key], table["rows"], strict=True))
    }


def leave(code: int) -> NoReturn:
    """Flush the output and end the process at once, so that Daft's threads cannot crash while it ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(*arguments)` in a new process and return its result.

    The function must be importable, and its result a plain value.

    Raises:
        CcmbError: the function raised one, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        value, error = receiver.recv()
    except EOFError:
        process.join()
        raise CcmbError(f"the process that worked on the tables died (exit code {process.exitcode})") from None
    finally:
        receiver.close()
    process.join()
    if error is not None:
        raise error
    return value


def _end_with_parent() -> None:
    """End this process when its parent ends.

    A parent that is killed cannot stop its child, which would go on writing where the next build writes too.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _source_error(error: Exception) -> CcmbError | None:
    """The error that one of our own sources raised. Daft wraps it in an error of its own and keeps only its text."""
    if _failures:
        return _failures[0]
    raised = re.search(r"\bCcmbError: (.+)", str(error))
    return CcmbError(raised[1].strip()) if raised else None


def note_failure(error: CcmbError) -> None:
    """Keep an error of one of our sources. Daft at times replaces such an error by its own, or loses it."""
    _failures.append(error)


def check_sources() -> None:
    """Raise the error of a source, if one has failed.

    Raises:
        CcmbError: a source of this process has failed since the last call; of several, the first error.
    """
    if failures := _failures.copy():
        _failures.clear()
        raise failures[0]


def _answer(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer: tuple[Any, Exception | None] = (function(*arguments), None)
        check_sources()
    except CcmbError as error:
        answer = (None, error)
    except Exception as error:
        answer = (None, _source_error(error) or CcmbError(one_line(error)))
        if _source_error(error) is None:
            import traceback

            traceback.print_exc()
    sender.send(answer)
    sender.close()
    leave(0)
