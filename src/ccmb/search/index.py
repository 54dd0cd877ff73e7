"""Building an index: pictures through the image tower into a vector store, any number of times over.

An index is a folder: `index.json` says which model made it, `vectors.db` is the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ccmb.data.pictures import Pictures, UnreadablePicture
from ccmb.errors import CcmbError
from ccmb.files import read_json, write_json
from ccmb.progress import progress
from ccmb.r2d2.loading import fingerprint, model_folder
from ccmb.r2d2.network import Network
from ccmb.r2d2.processing import R2D2Processor
from ccmb.search.sources import stamp
from ccmb.search.store import Entry, VectorStore, is_local
from ccmb.training.trainer import inference

RECORD = "index.json"
BATCH = 64
FLUSH_EVERY = 64  # batches


class IndexRecord(BaseModel):
    """What `index.json` holds."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(description="absolute path of the model folder")
    fingerprint: str = Field(description="SHA-256 of its model.safetensors")
    embed_dim: int = Field(gt=0, description="width D of the vectors")
    store: str = Field(default="vectors.db", description="file in the index folder, or the URI of a Milvus server")

    @classmethod
    def read(cls, index: Path) -> IndexRecord:
        """Read the record of an index folder.

        Raises:
            CcmbError: there is no index in the folder, or its record is damaged; the message names it.
        """
        path = index / RECORD
        if not path.is_file():
            raise CcmbError(f"{index}: no index here ({RECORD} is missing); make one with `ccmb index`")
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise CcmbError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; index anew") from None

    def open_store(self, index: Path) -> VectorStore:
        """Open the store of an index folder."""
        return VectorStore(index / self.store if is_local(self.store) else self.store, self.embed_dim)

    def must_match(self, index: Path, model: Path) -> None:
        """Refuse a model whose embeddings do not belong with those of the index.

        Raises:
            CcmbError: its weights are not those that made the index.
        """
        if fingerprint(model) == self.fingerprint:
            return
        if str(model.resolve()) == self.model:
            raise CcmbError(f"{index}: {model} has been trained on since; index into a new folder")
        raise CcmbError(f"{index}: made with the model {self.model}; {model} has other weights")


@dataclass(slots=True)
class IndexReport:
    """What one run of `build_index` did: counts of pictures, and a line for each that could not be read."""

    added: int = 0
    updated: int = 0
    skipped_known: int = 0
    unreadable: list[str] = field(default_factory=list)


def build_index(
    pictures: Sequence[str | Path],
    out: Path,
    network: Network,
    processor: R2D2Processor,
    model: str | Path,
) -> IndexReport:
    """Bring the index folder `out` up to date with folders and tars of pictures.

    Pictures that the index knows are skipped unless their file has changed, so that a stopped run is continued, and a
    grown folder caught up with, by the same call. Pictures that cannot be read are listed and the rest goes on.

    Args:
        model: the run or model folder that `network` and `processor` come from.

    Raises:
        CcmbError: a source is missing, the index belongs to another model, or another process is using it.
    """
    sources = [Pictures.open(path) for path in dict.fromkeys(Path(path).resolve() for path in pictures)]
    record = _open_record(out, model_folder(model), network.config.embed_dim)
    report = IndexReport()
    with record.open_store(out) as store, inference(network):
        entries = [entry for source in sources for entry in _entries(source, report)]
        known = store.stamps(entries)
        todo = [entry for entry in entries if known.get(entry.key) != entry.stamp]
        report.skipped_known = len(entries) - len(todo)
        opened = {str(source.path): source for source in sources}
        with progress("index", len(todo), "pictures") as advance:
            for number, start in enumerate(range(0, len(todo), BATCH), start=1):
                batch = todo[start : start + BATCH]
                readable, pixels = _load(batch, opened, processor, report)
                if readable:
                    store.upsert(readable, network.encode_image(torch.cat(pixels).to(network.device)).embed.cpu())
                updated = sum(entry.key in known for entry in readable)
                report.updated += updated
                report.added += len(readable) - updated
                if number % FLUSH_EVERY == 0:
                    store.flush()
                advance(len(batch), "")
        if todo:
            store.flush()
    return report


def _open_record(out: Path, model: Path, embed_dim: int) -> IndexRecord:
    if (out / RECORD).is_file():
        record = IndexRecord.read(out)
        record.must_match(out, model)
        return record
    if out.exists() and not out.is_dir():
        raise CcmbError(f"{out}: is a file; an index is a folder")
    record = IndexRecord(model=str(model.resolve()), fingerprint=fingerprint(model), embed_dim=embed_dim)
    if (out / record.store).exists():
        raise CcmbError(f"{out}: has {record.store} but no {RECORD} that names its model; index into a new folder")
    write_json(out / RECORD, record.model_dump())
    return record


def _entries(source: Pictures, report: IndexReport) -> Iterator[Entry]:
    path = Path(source.path)
    for name in source.names:
        try:
            name.encode()
        except UnicodeEncodeError:  # a file name in another encoding, which neither store nor terminal can hold
            shown = name.encode(errors="backslashreplace").decode()
            report.unreadable.append(f"{path / shown}: the file name is not UTF-8; rename it")
            continue
        yield Entry(str(path), name, stamp(path, name))


def _load(
    batch: Sequence[Entry], opened: dict[str, Pictures], processor: R2D2Processor, report: IndexReport
) -> tuple[list[Entry], list[Tensor]]:
    """Pixels (1, 3, S, S) of each picture, made at once: a batch of whole photographs would fill the memory."""
    readable, pixels = [], []
    for entry in batch:
        try:
            pixels.append(processor.images([opened[entry.source].load(entry.name)]))
            readable.append(entry)
        except UnreadablePicture as error:
            report.unreadable.append(str(error))
    return readable, pixels
