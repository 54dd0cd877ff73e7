"""The record of an export folder, and checks of the files in it.

A folder is somebody's download as often as the user's own work. So the names of its files are fixed and cannot point
elsewhere, every file must have the checksum in the record, even behind a link, and graphs that would read further
files are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccmb.core.choices import ExportPrecision
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json, write_json
from ccmb.core.hashing import sha256_of_bytes

RECORD = "export.json"
MAX_BYTES = 2**31  # what one ONNX file can hold


class ExportRecord(BaseModel):
    """The content of `export.json`."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1] = 1
    source: str = Field(description="name of what was exported, without a local path")
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of its model.safetensors")
    precision: ExportPrecision = Field(description="of the products with weights")
    temperature: float = Field(gt=0, allow_inf_nan=False, description="learned, of the first stage")
    files: dict[str, str] = Field(description="SHA-256 of each graph's file")
    measured: dict[str, Any] = Field(default={}, description="speed and recalls, where they were measured")

    @classmethod
    def read(cls, folder: Path) -> ExportRecord:
        """Read the record of an export folder.

        Raises:
            CcmbError: it is missing or damaged; the message names it.
        """
        path = folder / RECORD
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise CcmbError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; export anew") from None

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD, self.model_dump())

    def read_graph(self, folder: Path, file: str) -> bytes:
        """The graph in one of the folder's files.

        Raises:
            CcmbError: it is missing, is not the file that was written with this record, or
                would read other files; the message names it.
        """
        path = folder / file
        if not path.is_file():
            raise CcmbError(f"{path}: missing; export anew")
        if path.stat().st_size > MAX_BYTES:
            raise CcmbError(f"{path}: over 2 GB, which no ONNX file has; export anew")
        data = path.read_bytes()
        if sha256_of_bytes(data) != self.files.get(file):
            raise CcmbError(
                f"{path}: not the file that {RECORD} describes (cut short, or of another export); export anew"
            )
        if outside := _outside_file(data, path):
            raise CcmbError(f"{path}: keeps weights in another file, {outside!r}, which is not read; export anew")
        return data


def is_export(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def needs_runtime() -> Any:
    """The onnxruntime library.

    Raises:
        UsageError: it or onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"an export needs {error.name}; install it with pip install 'ccmb[fast]'") from None
    return onnxruntime


def _outside_file(data: bytes, path: Path) -> str | None:
    """A file that a graph would read its weights from, if there is one."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # whatever protobuf makes of other bytes
        raise CcmbError(f"{path}: not an ONNX graph; export anew") from None
    graphs = [model.graph, *model.functions]
    for tensor in (tensor for graph in graphs for tensor in _tensors(graph)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    return None


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph or function, including those of the graphs within its nodes."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
