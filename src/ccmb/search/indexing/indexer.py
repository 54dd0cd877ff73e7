"""Building an index: pictures through the image tower into a vector store, any number of times over."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ccmb.core.device import inference
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.passed_over import EXCLUDED, Excludes, PassedOver
from ccmb.core.progress import progress
from ccmb.data.images.source import FolderImages, UnreadableImageError
from ccmb.inference.interface import Network
from ccmb.r2d2.loading import model_folder, weights_fingerprint
from ccmb.r2d2.processing import R2D2Processor
from ccmb.search.index_folder import FORM, RECORD, Catalogue, IndexRecord, open_catalogue
from ccmb.search.indexing.copies import find_copies
from ccmb.search.indexing.image_metadata import digest_of, examine
from ccmb.search.indexing.image_sources import DOWNLOADS, UPLOADS, Listed, changed_seconds, find_sources
from ccmb.search.indexing.leaving import Gone, IndexReport, leave_away
from ccmb.search.indexing.upkeep import each_once, left_of, with_overlapping
from ccmb.search.indexing.url_images import fetch_pictures
from ccmb.search.indexing.user_fields import OwnFields, read_own_fields
from ccmb.search.query import FieldValue
from ccmb.search.state_cache import pack_states
from ccmb.search.vector_store import COLLECTION, Entry, is_local

BATCH = 64
FLUSH_EVERY = 64  # batches
_AHEAD = 2  # batches that are read while one is encoded
# So many may be gone from a source at once before it is asked whether that is meant: a disk may not be there.
_FEW_GONE = 20


def build_index(
    pictures: Sequence[str | Path],
    out: Path,
    network: Network,
    processor: R2D2Processor,
    model: str | Path,
    *,
    store: str | None = None,
    fields: Path | None = None,
    gone: Gone = "auto",
    states_bytes: int = 0,
    allow_private: Sequence[str] = (),
    exclude: Sequence[str] | None = None,
    proxy_from_environment: bool = False,
) -> IndexReport:
    """Bring the index folder `out` up to date with folders and files of pictures.

    Pictures that the index knows are skipped unless their file has changed, so that a stopped run is continued, and a
    grown folder caught up with, by the same call. Those that are gone from their source are taken out. Pictures that
    cannot be read are listed and the rest goes on. A file is indexed once, by whatever paths it is reached.

    Args:
        pictures: see `find_sources`; none: those that the index was made from.
        model: the run or model folder that `network` and `processor` come from.
        store: URI of a Milvus server for a new index; by default a file in `out`.
        fields: JSON lines or Parquet with the user's own fields, see `read_own_fields`.
        gone: "auto" keeps pictures that are gone if these are most of a source's, or if their folder is empty or cannot
            be read, which may be a disk that is away; "keep" keeps and "remove" removes all that are gone.
        states_bytes: most bytes of token states that are kept for the second stage, so that it need not encode.
        allow_private: private addresses that URLs may lead to.
        exclude: patterns of what is passed over (`ccmb.core.passed_over.Excludes`); by default those of the last time.
        proxy_from_environment: fetch URLs through the proxies that the environment names.

    Raises:
        CcmbError: a source is missing, or all of it is away while `gone` is "auto"; or the index belongs to another
            model, or another process is using it.
    """
    passed_over, away = PassedOver(), dict[str, str]()
    listed, urls = _find_sources(pictures, out, passed_over, away)
    if not urls:
        _refuse_of_urls(allow_private, proxy_from_environment)
    record = _open_record(out, model_folder(model), network.config.embed_dim, store)
    record.exclude = record.exclude if exclude is None else Excludes(exclude).patterns
    own = read_own_fields(fields, record) if fields else OwnFields({}, set())
    report = IndexReport(fields_left_out=sorted(own.left_out), repeated=sum(of.pictures.repeated for of in listed))
    with open_catalogue(out, record) as catalogue, inference(network):
        listed = leave_away(catalogue, listed, away, gone, report)
        url_of: dict[str, str] = {}
        if urls := _not_excluded(urls, Excludes(record.exclude), passed_over):
            name_of, failed = fetch_pictures(urls, out / DOWNLOADS, allow_private, proxy_from_environment)
            report.unreadable += failed
            url_of = {name: url for url, name in name_of.items()}
            listed.append(_downloaded(out, url_of, record))
        record.sources = list(dict.fromkeys([*record.sources, *(of.source for of in listed)]))
        record.write(out)
        run = _Run(catalogue, network, processor, own=own, url_of=url_of, states_bytes=states_bytes, report=report)
        run.all(listed, gone, passed_over)
    report.fields_unmatched = own.unmatched()
    report.passed_over, report.passed_over_line = dict(passed_over.counts), str(passed_over) if passed_over else ""
    return report


def _find_sources(
    pictures: Sequence[str | Path], out: Path, passed_over: PassedOver, away: dict[str, str]
) -> tuple[list[Listed], list[str]]:
    """See `find_sources`; of no pictures those that the index was made from.

    Raises:
        UsageError: it was made from none; or its own folder is among them.
    """
    known = IndexRecord.read(out).sources if not pictures or (out / RECORD).is_file() else []
    if not pictures:
        pictures = [source for source in known if Path(source).is_absolute()]
        if not pictures:
            raise UsageError(f"{out}: made from no folder or file; name the pictures")
    listed, urls = find_sources(pictures, passed_over, known, away)
    _refuse_itself(listed, out)
    return listed, urls


def _downloaded(out: Path, url_of: Mapping[str, str], record: IndexRecord) -> Listed:
    """What was fetched as one more source, whose images have a field for their URL."""
    record.learn_fields({"url": ""}, str(out))
    return Listed(DOWNLOADS, FolderImages(out / DOWNLOADS), sorted(url_of))


def _refuse_of_urls(allow_private: Sequence[str], proxy_from_environment: bool) -> None:
    if allow_private or proxy_from_environment:
        option = "--allow-private" if allow_private else "--proxy-from-environment"
        raise UsageError(f"{option} is of URLs, and there is none among the pictures; leave it out")


def _refuse_itself(listed: Sequence[Listed], out: Path) -> None:
    own = [os.path.join(os.path.realpath(out), name) for name in (DOWNLOADS, UPLOADS)]
    for of in listed:
        if any(of.source == folder or of.source.startswith(f"{folder}/") for folder in own):
            raise UsageError(f"{of.source}: the index's own copies of pictures; name a folder of yours")


def _not_excluded(urls: Sequence[str], excludes: Excludes, passed_over: PassedOver) -> list[str]:
    wanted = []
    for url in urls:
        if excludes.match(url.partition("://")[2].partition("?")[0]):
            passed_over.add(url, EXCLUDED)
        else:
            wanted.append(url)
    return wanted


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

    def all(self, listed: Sequence[Listed], gone: Gone, passed_over: PassedOver) -> None:
        store, excludes = self.catalogue.store, Excludes(self.catalogue.record.exclude)
        listed = with_overlapping(listed, self.catalogue.record.sources, store)
        known_of = {of.source: {entry.key: entry for entry in store.of_source(of.source)} for of in listed}
        names = {source: [entry.name for entry in known.values()] for source, known in known_of.items()}
        listed = each_once(listed, names, excludes, passed_over)
        self.opened = {of.source: of for of in listed}
        todo: list[Entry] = []
        for of in listed:
            known = known_of[of.source]
            self.known |= known
            entries = list(self._entries(of))
            self._remove_gone(of, known, gone, excludes)
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
        indexed = [(str(self.catalogue.sources.path(entry.source) / entry.name), entry) for entry in self.now.values()]
        self.report.duplicates, self.report.near_duplicates = find_copies(indexed)

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

    def _remove_gone(self, of: Listed, known: Mapping[str, Entry], gone: Gone, excludes: Excludes) -> None:
        path = self.catalogue.sources.path(of.source)
        self.report.unreadable += [f"{path / folder}: the folder cannot be read" for folder in of.unreadable]
        left = left_of(of, known.values(), excludes)
        if gone == "remove":
            left.lost += [key for keys in left.away.values() for key in keys]
        else:
            for folder, keys in left.away.items():
                self.report.away.append(
                    f"{path / folder}: empty now, or cannot be read; {len(keys):,} pictures of it stay"
                )
                self.report.kept_gone += len(keys)
        if gone == "keep" or (gone == "auto" and len(left.lost) > max(_FEW_GONE, len(known) / 2)):
            self.report.kept_gone += len(left.lost)
            left.lost = []
        if left.lost or left.unwanted:
            self.report.removed += self.catalogue.forget([*left.lost, *left.unwanted])

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
        except UnreadableImageError as error:
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


def must_match(record: IndexRecord, index: Path, model: Path) -> None:
    """Refuse a model whose embeddings do not belong with those of the index.

    Raises:
        CcmbError: its weights are not those that made the index.
    """
    if weights_fingerprint(model) == record.fingerprint:
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
    record = IndexRecord(
        form=FORM, model=str(model.resolve()), fingerprint=weights_fingerprint(model), embed_dim=embed_dim
    )
    if store is not None:
        if is_local(store):
            raise UsageError(f"{store}: not the URI of a Milvus server, such as http://127.0.0.1:19530")
        record.store, record.collection = store, f"{COLLECTION}_{secrets.token_hex(6)}"
    elif (out / record.store).exists():
        raise CcmbError(f"{out}: has {record.store} but no {RECORD} that names its model; index into a new folder")
    record.write(out)
    return record
