"""An open index folder: its store, its thumbnails and its own images.

index.json       the model that made it, the place of its store, the user fields that it has
vectors.db/      the store, if it is local; with mirror.db, from which it is loaded into memory
thumbnails.db    small JPEGs
states.db        token states of images for the model's own second stage, if asked for; states-*.db: for another one
downloads/       images that came from URLs
uploads/         images that were handed to a running index
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write, read_json, write_json
from ccmb.inference.models.base import Model
from ccmb.inference.models.known import which_model
from ccmb.search.blob_store import BlobStore
from ccmb.search.filters import BUILT_IN, iso_date
from ccmb.search.frozen import is_frozen, open_frozen, refuse_writing
from ccmb.search.indexing.image_metadata import ExaminedImage, suffix_of, thumbnail
from ccmb.search.indexing.image_sources import UPLOADS, Sources
from ccmb.search.memory_store import MemoryStore
from ccmb.search.query import FieldValue
from ccmb.search.vector_store import COLLECTION, Entry, Store, VectorStore, is_local

RECORD, FORM = "index.json", 2
TYPES: Mapping[str, type] = {"text": str, "whole number": int, "number": float, "yes or no": bool}
_FIELD_NAME = re.compile(r"[^\s=!<>\"]{1,64}")


class RankerCalibration(BaseModel):
    """What makes a probability of a ranker's score, see `ccmb.inference.models.cross_encoder.Calibration`."""

    model_config = ConfigDict(extra="forbid")
    ranker: str = Field(description="what opens the ranker")
    temperature: float = Field(gt=0)
    offset: float


class IndexRecord(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(extra="forbid")
    form: int = Field(default=1, description="version of the folder's form")
    model: str = Field(description="what opens the model: an absolute path, a hub id, or a library's name")
    fingerprint: str = Field(description="SHA-256 of an R2D2's model.safetensors, or of another model and its settings")
    embed_dim: int = Field(gt=0, description="width D of the vectors")
    store: str = Field(default="vectors.db", description="file in the index folder, or the URI of a Milvus server")
    collection: str = Field(default=COLLECTION, description="name of this index among those of the server")
    sources: list[str] = Field(default_factory=list, description="folders and files that were indexed")
    exclude: list[str] = Field(default_factory=list, description="patterns of what is passed over in them")
    fields: dict[str, str] = Field(default_factory=dict, description="the user's fields and their types")
    calibrations: dict[str, RankerCalibration] = Field(
        default_factory=dict, description="of rankers behind this index, by their fingerprints; see ccmb calibrate"
    )

    @classmethod
    def read(cls, index: Path) -> IndexRecord:
        """Read the record of an index folder.

        Raises:
            CcmbError: there is no index in the folder, or its record is damaged; the message names it.
        """
        path = index / RECORD
        if not path.is_file():
            raise CcmbError(
                f"{index}: no index here ({RECORD} is missing); make one with `ccmb index`: {which_model()}"
            )
        try:
            record = cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise CcmbError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; index anew") from None
        if record.form != FORM:
            raise CcmbError(f"{index}: made by another version of ccmb; index the images into a new folder")
        return record

    def write(self, index: Path) -> None:
        write_json(index / RECORD, self.model_dump())

    @property
    def types(self) -> dict[str, type]:
        """The types of all fields that conditions can name."""
        return {**BUILT_IN, **{name: TYPES[kind] for name, kind in self.fields.items()}}

    def learn_fields(self, own: Mapping[str, FieldValue], where: str) -> bool:
        """Record the types of an image's user fields, and return whether any was new.

        Raises:
            UsageError: a name cannot be used, or a value is not of the type that the field has; the message begins
                with `where`.
        """
        before = dict(self.fields)
        for name, value in own.items():
            if not _FIELD_NAME.fullmatch(name) or name in (*BUILT_IN, "source"):
                raise UsageError(f"{where}: {name!r} cannot be the name of a field; choose another")
            kind = next(kind for kind, python in TYPES.items() if type(value) is python)
            known = self.fields.setdefault(name, kind)
            if known == "whole number" and kind == "number":
                self.fields[name] = "number"
            elif known != kind and not (known == "number" and kind == "whole number"):
                raise UsageError(f"{where}: {name} is {value!r}, where other images have a {known}")
        return self.fields != before


def model_of(index: Path, model: str | Path | None = None) -> str:
    """What opens the given model, by default the one that made the index.

    Raises:
        CcmbError: there is no index, or its model is gone.
    """
    record = IndexRecord.read(index)
    if model is not None:
        return str(model)
    if Path(record.model).is_absolute() and not Path(record.model).is_dir():
        raise CcmbError(f"{index}: the model that made it, {record.model}, is gone; say where it is with --model")
    return record.model


class Catalogue:
    """An open index; see `open_catalogue`."""

    def __init__(self, folder: Path, record: IndexRecord, store: Store, frozen: bool = False) -> None:
        self.folder, self.record, self.store, self.frozen = folder, record, store, frozen
        self.sources = Sources(folder)
        self.thumbnails = BlobStore(folder / "thumbnails.db", frozen)
        self._states = {path.name: BlobStore(path, frozen) for path in sorted(folder.glob("states*.db"))}

    def states_for(self, model: Model) -> BlobStore:
        """The token states that a model's second stage reads; those of one model are of no use to another."""
        own = model.ranker is model
        name = "states.db" if own else f"states-{model.ranker.fingerprint[:16]}.db"
        if name not in self._states:
            self._states[name] = BlobStore(self.folder / name, self.frozen)
        return self._states[name]

    def states_size(self) -> int:
        """Bytes of all token states."""
        return sum(states.size() for states in self._states.values())

    def entry(self, key: str) -> Entry:
        """The entry of a key.

        Raises:
            CcmbError: the index has no image of this key.
        """
        entries = self.store.get([key])
        if key not in entries:
            raise CcmbError(f"{key}: no such image in the index")
        return entries[key]

    def image(self, key: str) -> Image.Image:
        """The image of a key as RGB.

        Raises:
            CcmbError: the index has no image of this key, or the image is gone or unreadable now.
        """
        entry = self.entry(key)
        return self.sources.load(entry.source, entry.name)

    def thumbnail(self, key: str) -> bytes:
        """A small JPEG of an image, even if the image is gone.

        Raises:
            CcmbError: the index has no image of this key, or both the thumbnail and the image are lost.
        """
        thumbnails = self.thumbnails.get([key])
        return thumbnails[key] if key in thumbnails else thumbnail(self.image(key))

    def fields(self, entry: Entry) -> dict[str, FieldValue]:
        """The fields of an image as users see them: dates in ISO 8601, yes or no as true or false."""
        types = self.record.types
        fields = {name: bool(value) if types.get(name) is bool else value for name, value in entry.columns.items()}
        return fields | ({} if entry.date is None else {"date": iso_date(entry.date)})

    def upload(self, examined: ExaminedImage, data: bytes, own: Mapping[str, FieldValue]) -> Entry:
        """Save an image in the index's own folder, under a unique name, and return its entry.

        The entry is not yet in the store.

        Raises:
            CcmbError: the file cannot be written.
        """
        stem, dot, suffix = Path(examined.entry.name.replace("\\", "/")).name.rpartition(".")
        stem = re.sub(r"[^\w.-]+", "_", stem if dot else suffix).strip("._")[:60] or "picture"
        name = f"{stem}-{secrets.token_hex(6)}{suffix_of(data) or ''}"
        path = self.folder / UPLOADS / name
        with atomic_write(path, "wb") as file:
            file.write(data)
        stamp = self.sources.stamp(UPLOADS, name)
        return replace(examined.entry, source=UPLOADS, name=name, stamp=stamp, own=own)

    def forget(self, keys: Sequence[str]) -> int:
        """Remove images from the index, with files that the index owns, and return how many there were."""
        entries = self.store.get(keys)
        count = self.store.delete(keys)
        for blob_store in (self.thumbnails, *self._states.values()):
            blob_store.delete(keys)
        for entry in entries.values():
            if not Path(entry.source).is_absolute():
                with suppress(OSError):
                    (self.folder / entry.source / entry.name).unlink()
        return count

    def close(self) -> None:
        self.thumbnails.close()
        for states in self._states.values():
            states.close()


@contextmanager
def open_catalogue(
    folder: Path, record: IndexRecord, to_write: bool = True, coarse_dim: int | None = None
) -> Iterator[Catalogue]:
    """Open the index of a folder.

    A local store is held by this process alone, and copied into memory. A server is queried directly: others may write
    to it, and its data may not fit in memory.

    Args:
        to_write: refuse a folder that cannot be written to; otherwise such a folder is opened for reading only.
        coarse_dim: scan the first so many numbers of the vectors, see `ccmb.search.coarse`.

    Raises:
        UsageError: there is a coarse dimension of a server's index, or it is none of the vectors'.
        CcmbError: the store is missing, damaged, out of reach, in use by another process, or cannot be written to.
    """
    local, frozen = is_local(record.store), is_frozen(folder)
    if coarse_dim is not None and not local:
        raise UsageError(f"--coarse-dim is of an index in memory; {record.store} scans its vectors by itself")
    if frozen and to_write:
        raise refuse_writing(folder)
    if frozen and local:
        with open_frozen(folder, record.store, record.embed_dim, record.collection, coarse_dim) as held:
            catalogue = Catalogue(folder, record, held, frozen)
            try:
                yield catalogue
            finally:
                catalogue.close()
        return
    uri = folder / record.store if local else record.store
    with VectorStore(uri, record.embed_dim, record.collection) as store:
        memory_store = MemoryStore(store, folder / "mirror.db", coarse_dim) if local else None
        # An empty mirror is false.
        catalogue = Catalogue(folder, record, store if memory_store is None else memory_store, frozen)
        try:
            yield catalogue
        finally:
            catalogue.close()
            if memory_store is not None:
                memory_store.close()
