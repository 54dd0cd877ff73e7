"""Building an index: pictures through the image tower into a vector store, any number of times over."""

from __future__ import annotations

import os
import secrets
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ccmb.corpus.image_dedup import duplicate_groups
from ccmb.data.pictures import FolderPictures, UnreadablePicture
from ccmb.errors import CcmbError, UsageError
from ccmb.progress import progress
from ccmb.r2d2.loading import fingerprint, model_folder
from ccmb.r2d2.network import Network
from ccmb.r2d2.processing import R2D2Processor
from ccmb.search.catalogue import FORM, RECORD, Catalogue, IndexRecord, open_catalogue
from ccmb.search.examining import digest_of, examine, looks_of
from ccmb.search.own_fields import OwnFields, read_own_fields
from ccmb.search.query import FieldValue
from ccmb.search.sources import DOWNLOADS, Listed, changed_seconds, find_sources
from ccmb.search.states import pack_states
from ccmb.search.store import COLLECTION, Entry, is_local
from ccmb.search.url_pictures import fetch_pictures
from ccmb.training.trainer import inference

BATCH = 64
FLUSH_EVERY = 64  # batches
_AHEAD = 2  # batches that are read while one is encoded
# So many may be gone from a source at once before it is asked whether that is meant: a disk may not be there.
_FEW_GONE = 20
Gone = Literal["auto", "remove", "keep"]


@dataclass(slots=True)
class IndexReport:
    """What one run of `build_index` did.

    Attributes:
        added, updated, skipped_known, removed: counts of pictures.
        kept_gone: pictures that are gone from their source and still in the index.
        unreadable: a line for each picture that could not be read or fetched.
        duplicates: paths of pictures of the given sources whose files are equal, byte for byte.
        near_duplicates: of those that only look alike, one of each set of equal ones.
        repeated: files in tars that another one of the same name hides.
        fields_left_out: names of fields whose values are neither text nor number, nor true or false.
    """

    added: int = 0
    updated: int = 0
    skipped_known: int = 0
    removed: int = 0
    kept_gone: int = 0
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    repeated: int = 0
    fields_left_out: list[str] = field(default_factory=list)


def build_index(
    pictures: Sequence[str | Path],
    out: Path,
    network: Network,
    processor: R2D2Processor,
    model: str | Path,
    store: str | None = None,
    fields: Path | None = None,
    gone: Gone = "auto",
    states_bytes: int = 0,
    allow_private: Sequence[str] = (),
) -> IndexReport:
    """Bring the index folder `out` up to date with folders and files of pictures.

    Pictures that the index knows are skipped unless their file has changed, so that a stopped run is continued, and a
    grown folder caught up with, by the same call. Those that are gone from their source are taken out. Pictures that
    cannot be read are listed and the rest goes on.

    Args:
        pictures: see `find_sources`; none: those that the index was made from.
        model: the run or model folder that `network` and `processor` come from.
        store: URI of a Milvus server for a new index; by default a file in `out`.
        fields: JSON lines or Parquet with the user's own fields, see `read_own_fields`.
        gone: "auto" keeps pictures that are gone if these are most of a source's, which may be a disk that is away.
        states_bytes: most bytes of token states that are kept for the second stage, so that it need not encode.
        allow_private: private addresses that URLs may lead to.

    Raises:
        CcmbError: a source is missing, the index belongs to another model, or another process is using it.
    """
    if not pictures:
        pictures = [source for source in IndexRecord.read(out).sources if Path(source).is_absolute()]
        if not pictures:
            raise UsageError(f"{out}: made from no folder or file; name the pictures")
    listed, urls = find_sources(pictures)
    record = _open_record(out, model_folder(model), network.config.embed_dim, store)
    own = read_own_fields(fields, record) if fields else OwnFields({}, set())
    report = IndexReport(fields_left_out=sorted(own.left_out))
    report.repeated = sum(of.pictures.repeated for of in listed)
    with open_catalogue(out, record) as catalogue, inference(network):
        if urls:
            named, failed = fetch_pictures(urls, out / DOWNLOADS, allow_private)
            report.unreadable += failed
            listed.append(Listed(DOWNLOADS, FolderPictures(out / DOWNLOADS), sorted(set(named.values()))))
            record.learn_fields({"url": ""}, str(out))
        record.sources = list(dict.fromkeys([*record.sources, *(of.source for of in listed)]))
        record.write(out)
        url_of = {name: url for url, name in named.items()} if urls else {}
        _Run(catalogue, network, processor, own, url_of, states_bytes, report).all(listed, gone)
    return report


@dataclass(slots=True)
class _Ready:
    """A picture that is read: complete, or its line if that failed; without pixels where its file has not changed."""

    entry: Entry
    thumbnail: bytes | None = None
    pixels: Tensor | None = None
    error: str | None = None


class _Run:
    """One run of `build_index` over an open index."""

    def __init__(
        self,
        catalogue: Catalogue,
        network: Network,
        processor: R2D2Processor,
        own: OwnFields,
        url_of: Mapping[str, str],
        states_bytes: int,
        report: IndexReport,
    ) -> None:
        self.catalogue, self.network, self.processor = catalogue, network, processor
        self.own, self.url_of, self.report = own, url_of, report
        self.states_room = states_bytes - catalogue.states.size() if network.can_rank else 0
        self.opened: dict[str, Listed] = {}
        self.known: dict[str, Entry] = {}
        self.now: dict[str, Entry] = {}  # what the index has of the sources in the end

    def all(self, listed: Sequence[Listed], gone: Gone) -> None:
        self.opened = {of.source: of for of in listed}
        todo: list[Entry] = []
        for of in listed:
            known = {entry.key: entry for entry in self.catalogue.store.of_source(of.source)}
            self.known |= known
            entries = list(self._entries(of))
            self._remove_gone(of, known, gone)
            for entry in entries:
                held = self.known.get(entry.key)
                if held is None or (held.stamp, held.own) != (entry.stamp, entry.own):
                    todo.append(entry)
                else:
                    self.report.skipped_known += 1
                    self.now[entry.key] = held
        with progress("index", len(todo), "pictures") as advance:
            for number, batch in enumerate(self._read(todo), start=1):
                self._write(batch)
                if number % FLUSH_EVERY == 0:
                    self.catalogue.store.flush()
                advance(len(batch), "")
        if todo or self.report.removed:
            self.catalogue.store.flush()
        self._find_duplicates()

    def _entries(self, of: Listed) -> Iterator[Entry]:
        path = self.catalogue.sources.path(of.source)
        for name in of.names:
            try:
                name.encode()
            except UnicodeEncodeError:  # a file name in another encoding, which neither store nor terminal can hold
                shown = name.encode(errors="backslashreplace").decode()
                self.report.unreadable.append(f"{path / shown}: the file name is not UTF-8; rename it")
                continue
            entry = Entry(of.source, name, self.catalogue.sources.stamp(of.source, name))
            url = self.url_of.get(name) if of.source == DOWNLOADS else None
            told, held = self.own.of(entry, url), self.known.get(entry.key)
            own: Mapping[str, FieldValue] = told if told is not None else held.own if held else {}
            yield replace(entry, own={**own, "url": url} if url else own)

    def _remove_gone(self, of: Listed, known: Mapping[str, Entry], gone: Gone) -> None:
        named = set(of.names)
        lost = [key for key, held in known.items() if held.name not in named and held.name not in of.pictures]
        if gone == "keep" or (gone == "auto" and len(lost) > max(_FEW_GONE, len(known) / 2)):
            self.report.kept_gone += len(lost)
        elif lost:
            self.report.removed += self.catalogue.forget(lost)

    def _read(self, todo: Sequence[Entry]) -> Iterator[list[_Ready]]:
        """Batches of pictures, which other threads read and shrink while this one encodes."""
        batches = (todo[start : start + BATCH] for start in range(0, len(todo), BATCH))
        pool = ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))))
        try:
            ahead: deque[list[Future[_Ready]]] = deque(
                [pool.submit(self._read_one, entry) for entry in batch] for batch in islice(batches, _AHEAD)
            )
            while ahead:
                yield [future.result() for future in ahead.popleft()]
                ahead.extend([pool.submit(self._read_one, entry) for entry in batch] for batch in islice(batches, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_one(self, entry: Entry) -> _Ready:
        held = self.known.get(entry.key)
        if held is not None and held.stamp == entry.stamp:
            return _Ready(replace(held, own=entry.own))
        try:
            data = self.opened[entry.source].pictures.raw(entry.name)
            if held is not None and held.digest == digest_of(data):
                return _Ready(replace(held, stamp=entry.stamp, own=entry.own))
            path = self.catalogue.sources.path(entry.source)
            examined = examine(entry, data, changed_seconds(path, entry.name))
            # Pixels are made at once: a batch of whole photographs would fill the memory.
            pixels = self.processor.images([examined.image])
            return _Ready(examined.entry, examined.thumbnail, pixels)
        except UnreadablePicture as error:
            return _Ready(entry, error=str(error))
        except ValueError as error:
            shown = f"{self.catalogue.sources.path(entry.source)}/{entry.name}: {error}"
            return _Ready(entry, error=" ".join(shown.split()))

    def _write(self, batch: Sequence[_Ready]) -> None:
        """Thumbnails and states first, so that a picture in the store has them whenever the process is killed."""
        self.report.unreadable += [of.error for of in batch if of.error]
        fresh = [of for of in batch if of.thumbnail is not None]
        same = [of.entry for of in batch if of.thumbnail is None and of.error is None]
        if fresh:
            pixels = torch.cat([of.pixels for of in fresh if of.pixels is not None])
            encoded = self.network.encode_image(pixels.to(self.network.device))
            self.catalogue.thumbnails.put({of.entry.key: of.thumbnail for of in fresh if of.thumbnail})
            self._keep_states([of.entry for of in fresh], encoded.states)
            self.catalogue.store.upsert([of.entry for of in fresh], encoded.embed.cpu())
            updated = sum(of.entry.key in self.known for of in fresh)
            self.report.updated += updated
            self.report.added += len(fresh) - updated
        if same:
            embeds = self.catalogue.store.embeds([entry.key for entry in same])
            self.catalogue.store.upsert(same, torch.stack([embeds[entry.key] for entry in same]))
            refielded = sum(entry.own != self.known[entry.key].own for entry in same)
            self.report.updated += refielded
            self.report.skipped_known += len(same) - refielded
        self.now |= {of.entry.key: of.entry for of in batch if of.error is None}

    def _keep_states(self, entries: Sequence[Entry], states_BSW: Tensor) -> None:
        if self.states_room <= 0:
            return
        blobs = {}
        for entry, states_SW in zip(entries, states_BSW, strict=True):
            packed = pack_states(entry, states_SW)
            if len(packed) > self.states_room:
                break
            self.states_room -= len(packed)
            blobs[entry.key] = packed
        self.catalogue.states.put(blobs)

    def _find_duplicates(self) -> None:
        same: dict[str, list[str]] = defaultdict(list)
        looks: dict[str, str] = {}
        for entry in self.now.values():
            same[entry.digest].append(str(self.catalogue.sources.path(entry.source) / entry.name))
            looks[entry.digest] = entry.looks
        self.report.duplicates = sorted(sorted(paths) for paths in same.values() if len(paths) > 1)
        if len(looks) < 2:
            return
        groups = duplicate_groups(looks_of(list(looks.values())))
        alike: dict[int, list[str]] = defaultdict(list)
        shared = np.bincount(groups)[groups] > 1
        for digest, group, is_shared in zip(looks, groups.tolist(), shared.tolist(), strict=True):
            if is_shared:
                alike[group].append(min(same[digest]))
        self.report.near_duplicates = sorted(map(sorted, alike.values()))


def must_match(record: IndexRecord, index: Path, model: Path) -> None:
    """Refuse a model whose embeddings do not belong with those of the index.

    Raises:
        CcmbError: its weights are not those that made the index.
    """
    if fingerprint(model) == record.fingerprint:
        return
    if str(model.resolve()) == record.model:
        raise CcmbError(f"{index}: {model} has been trained on since; index into a new folder")
    raise CcmbError(f"{index}: made with the model {record.model}; {model} has other weights")


def _open_record(out: Path, model: Path, embed_dim: int, store: str | None) -> IndexRecord:
    if (out / RECORD).is_file():
        record = IndexRecord.read(out)
        must_match(record, out, model)
        if store is not None and store != record.store:
            raise UsageError(f"{out}: its store is {record.store}; index into a new folder to use {store}")
        return record
    if out.exists() and not out.is_dir():
        raise CcmbError(f"{out}: is a file; an index is a folder")
    record = IndexRecord(form=FORM, model=str(model.resolve()), fingerprint=fingerprint(model), embed_dim=embed_dim)
    if store is not None:
        if is_local(store):
            raise UsageError(f"{store}: not the URI of a Milvus server, such as http://127.0.0.1:19530")
        record.store, record.collection = store, f"{COLLECTION}_{secrets.token_hex(6)}"
    elif (out / record.store).exists():
        raise CcmbError(f"{out}: has {record.store} but no {RECORD} that names its model; index into a new folder")
    record.write(out)
    return record
