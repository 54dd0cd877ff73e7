"""A tensor in a safetensors file, read row by row.

Rows are read, not mapped: the pages of a map count as memory, and a file cut short under a map kills the process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.uint8: "U8", torch.int8: "I8",
}  # fmt: skip
BY_NAME = {name: dtype for dtype, name in TYPES.items()}


class TensorRows:
    """A tensor in an open file, by rows. Several processes may share the file.

    Args:
        entry: of the file's header.
        base: where its tensors begin.
    """

    def __init__(self, file: IO[bytes], entry: dict[str, Any], base: int) -> None:
        self._file, self._shape, self._dtype = file, entry["shape"], BY_NAME[entry["dtype"]]
        self._start = base + entry["data_offsets"][0]
        self._row = self._dtype.itemsize * (self._shape[1] if len(self._shape) > 1 else 1)

    def __len__(self) -> int:
        return int(self._shape[0])

    def new(self, *shape: int) -> Tensor:
        """Zeros of a shape, followed by the shape of a row."""
        return torch.zeros(*shape, *self._shape[1:], dtype=self._dtype)

    def read(self, start: int, count: int) -> Tensor:
        rows = self.new(count)
        self.read_into(rows, start)
        return rows

    def read_into(self, rows: Tensor, start: int) -> None:
        """Fill `rows`, which are contiguous, with the rows from `start` on.

        Raises:
            CcmbError: the file ends before.
        """
        if not rows.numel():
            return
        into, at = bytes_of(rows), self._start + start * self._row
        while into:
            count = os.preadv(self._file.fileno(), [into], at)
            if not count:
                raise CcmbError(f"{self._file.name}: cut short while it was read; delete it and begin again")
            into, at = into[count:], at + count


def open_rows(path: Path) -> tuple[IO[bytes], dict[str, TensorRows]]:
    """An open safetensors file, and its tensors by name.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it is not there, or not whole.
    """
    file = open(path, "rb", buffering=0)  # noqa: SIM115 - as long as its tensors
    size = int.from_bytes(file.read(8), "little")
    if not 0 < size < path.stat().st_size:
        raise ValueError(f"{path}: no header")
    header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    if max(entry["data_offsets"][1] for entry in header.values()) != path.stat().st_size - 8 - size:
        raise ValueError(f"{path}: cut short")
    return file, {name: TensorRows(file, entry, 8 + size) for name, entry in header.items()}


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; they are its own where it is contiguous."""
    view: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return view
