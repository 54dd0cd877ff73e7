"""Building and updating an index: images are encoded by the image tower and written into a vector store."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.passed_over import EXCLUDED, Excludes, PassedOver
from ccmb.core.progress import progress
from ccmb.data.images.source import FolderImages, UnreadableImageError
from ccmb.inference.models.base import Model
from ccmb.inference.models.three_stages import by_stage
from ccmb.search.index_folder import FORM, RECORD, Catalogue, IndexRecord, open_catalogue
from ccmb.search.indexing.duplicates import find_duplicates
from ccmb.search.indexing.image_metadata import digest_of, examine
from ccmb.search.indexing.image_sources import DOWNLOADS, UPLOADS, ListedSource, changed_seconds, find_sources
from ccmb.search.indexing.leaving import Gone, IndexReport, leave_away
from ccmb.search.indexing.upkeep import each_once, leaving_entries, with_overlapping
from ccmb.search.indexing.url_images import fetch_images
from ccmb.search.indexing.user_fields import UserFields, read_user_fields
from ccmb.search.query import FieldValue
from ccmb.search.state_cache import pack_states
from ccmb.search.vector_store import COLLECTION, Entry, is_local

FLUSH_EVERY = 64  # batches
_AHEAD = 2  # batches that are read while one is encoded
# This many images may be gone from a source before the user has to confirm it: a disk may not be mounted.
_FEW_GONE = 20


def build_index(
    images: Sequence[str | Path],
    out: Path,
    model: Model,
    *,
    store: str | None = None,
    fields: Path | None = None,
    gone: Gone = "auto",
    states_bytes: int = 0,
    allow_private: Sequence[str] = (),
    exclude: Sequence[str] | None = None,
    proxy_from_environment: bool = False,
) -> IndexReport:
    """Bring the index folder `out` up to date with folders and files of images.

    Images that the index knows are skipped unless their file has changed. So the same call continues a stopped run
    and adds what is new in a folder. Images that are gone from their source are removed. Images that cannot be read
    are listed, and indexing goes on. A file is indexed once, even if several paths lead to it.

    Args:
        images: see `find_sources`; if empty, the sources that the index was made from.
        store: URI of a Milvus server for a new index; by default a file in `out`.
        fields: JSON lines or Parquet with the user's own fields, see `read_user_fields`.
        gone: what happens to images that are gone. "auto" keeps them if they are most of a source, or if their folder
            is empty or cannot be read, since a disk may not be mounted; otherwise it removes them. "keep" always keeps
            and "remove" always removes them.
        states_bytes: the most bytes of token states to store, so that the second stage need not encode images again.
        allow_private: private addresses that URLs may lead to.
        exclude: patterns of images to leave out (`ccmb.core.passed_over.Excludes`); by default those of the last run.
        proxy_from_environment: fetch URLs through the proxies that the environment names.

    Raises:
        CcmbError: a source is missing, or all of its images are while `gone` is "auto"; or the index belongs to
            another model, or another process is using it.
    """
    passed_over, away = PassedOver(), dict[str, str]()
    listed, urls = _find_sources(images, out, passed_over, away)
    _check_options_of_urls(urls, allow_private, proxy_from_environment)
    record = _open_record(out, model, store)
    record.exclude = record.exclude if exclude is None else Excludes(exclude).patterns
    user_fields = read_user_fields(fields, record) if fields else UserFields({}, set())
    report = IndexReport(repeated=sum(source.images.repeated for source in listed))
    with open_catalogue(out, record) as catalogue, torch.inference_mode():
        listed = leave_away(catalogue, listed, away, gone, report)
        url_of: dict[str, str] = {}
        if urls := _not_excluded(urls, Excludes(record.exclude), passed_over):
            name_of, failed = fetch_images(urls, out / DOWNLOADS, allow_private, proxy_from_environment)
            report.unreadable += failed
            url_of = {name: url for url, name in name_of.items()}
            listed.append(_downloaded(out, url_of, record))
        record.sources = list(dict.fromkeys([*record.sources, *(source.source for source in listed)]))
        record.write(out)
        run = _Run(catalogue, model, user_fields, url_of=url_of, states_bytes=states_bytes, report=report)
        run.all(listed, gone, passed_over)
    report.fields_unmatched, report.fields_left_out = user_fields.unmatched(), sorted(user_fields.left_out)
    report.passed_over, report.passed_over_line = dict(passed_over.counts), str(passed_over) if passed_over else ""
    return report


def _find_sources(
    images: Sequence[str | Path], out: Path, passed_over: PassedOver, away: dict[str, str]
) -> tuple[list[ListedSource], list[str]]:
    """See `find_sources`; without named images, the sources of the index.

    Raises:
        UsageError: the index has no sources, or its own folder is among them.
    """
    known = IndexRecord.read(out).sources if not images or (out / RECORD).is_file() else []
    if not images:
        images = [source for source in known if Path(source).is_absolute()]
        if not images:
            raise UsageError(f"{out}: made from no folder or file; name the images")
    listed, urls = find_sources(images, passed_over, known, away)
    _refuse_itself(listed, out)
    return listed, urls


def _downloaded(out: Path, url_of: Mapping[str, str], record: IndexRecord) -> ListedSource:
    """The fetched images as one more source; they have a field for their URL."""
    record.learn_fields({"url": ""}, str(out))
    return ListedSource(DOWNLOADS, FolderImages(out / DOWNLOADS), sorted(url_of))


def _check_options_of_urls(urls: Sequence[str], allow_private: Sequence[str], proxy_from_environment: bool) -> None:
    if (allow_private or proxy_from_environment) and not urls:
        option = "--allow-private" if allow_private else "--proxy-from-environment"
        raise UsageError(f"{option} is of URLs, and there is none among the images; leave it out")


def _refuse_itself(listed: Sequence[ListedSource], out: Path) -> None:
    own_folders = [os.path.join(os.path.realpath(out), name) for name in (DOWNLOADS, UPLOADS)]
    for source in listed:
        if any(source.source == folder or source.source.startswith(f"{folder}/") for folder in own_folders):
            raise UsageError(f"{source.source}: the index's own copies of images; name a folder of yours")


def _not_excluded(urls: Sequence[str], excludes: Excludes, passed_over: PassedOver) -> list[str]:
    kept = []
    for url in urls:
        if excludes.match(url.partition("://")[2].partition("?")[0]):
            passed_over.add(url, EXCLUDED)
        else:
            kept.append(url)
    return kept


@dataclass(slots=True)
class _Ready:
    """An image that was read, not prepared for the model if its file has not changed; or the line of an error."""

    entry: Entry
    thumbnail: bytes | None = None
    prepared: Any = None
    error: str | None = None


class _Run:
    """One run of `build_index` over an open index."""

    def __init__(
        self,
        catalogue: Catalogue,
        model: Model,
        own: UserFields,
        url_of: Mapping[str, str],
        states_bytes: int,
        report: IndexReport,
    ) -> None:
        self.catalogue, self.model = catalogue, model
        self.own, self.url_of, self.report = own, url_of, report
        self.states_room = states_bytes - catalogue.states_size() if model.can_rank else 0
        self.opened: dict[str, ListedSource] = {}
        self.known: dict[str, Entry] = {}
        self.now: dict[str, Entry] = {}  # the sources' entries at the end of the run

    def all(self, listed: Sequence[ListedSource], gone: Gone, passed_over: PassedOver) -> None:
        store, excludes = self.catalogue.store, Excludes(self.catalogue.record.exclude)
        listed = with_overlapping(listed, self.catalogue.record.sources, store)
        known_of = {
            listed_source.source: {entry.key: entry for entry in store.of_source(listed_source.source)}
            for listed_source in listed
        }
        names = {source: [entry.name for entry in known.values()] for source, known in known_of.items()}
        listed = each_once(listed, names, excludes, passed_over)
        self.opened = {listed_source.source: listed_source for listed_source in listed}
        todo: list[Entry] = []
        for listed_source in listed:
            known = known_of[listed_source.source]
            self.known |= known
            entries = list(self._entries(listed_source))
            self._remove_gone(listed_source, known, gone, excludes)
            for entry in entries:
                held = self.known.get(entry.key)
                if held is None or (held.stamp, held.own) != (entry.stamp, entry.own):
                    todo.append(entry)
                else:
                    self.report.skipped_known += 1
                    self.now[entry.key] = held
        with progress("index", len(todo), "images") as advance:
            for batch_count, batch in enumerate(self._read(todo), start=1):
                self._write(batch)
                if batch_count % FLUSH_EVERY == 0:
                    self.catalogue.store.flush()
                advance(len(batch), "")
        if todo or self.report.removed:
            self.catalogue.store.flush()
        indexed = [(str(self.catalogue.sources.path(entry.source) / entry.name), entry) for entry in self.now.values()]
        self.report.duplicates, self.report.near_duplicates = find_duplicates(indexed)

    def _entries(self, listed_source: ListedSource) -> Iterator[Entry]:
        path = self.catalogue.sources.path(listed_source.source)
        for name in listed_source.names:
            try:
                name.encode()
            except UnicodeEncodeError:  # a file name in another encoding, which neither store nor terminal can hold
                shown = name.encode(errors="backslashreplace").decode()
                self.report.unreadable.append(f"{path / shown}: the file name is not UTF-8; rename it")
                continue
            entry = Entry(listed_source.source, name, self.catalogue.sources.stamp(listed_source.source, name))
            url = self.url_of.get(name) if listed_source.source == DOWNLOADS else None
            user_fields, held = self.own.fields_of(entry, url), self.known.get(entry.key)
            own: Mapping[str, FieldValue] = user_fields if user_fields is not None else held.own if held else {}
            yield replace(entry, own={**own, "url": url} if url else own)

    def _remove_gone(
        self, listed_source: ListedSource, known: Mapping[str, Entry], gone: Gone, excludes: Excludes
    ) -> None:
        path = self.catalogue.sources.path(listed_source.source)
        self.report.unreadable += [f"{path / folder}: the folder cannot be read" for folder in listed_source.unreadable]
        left = leaving_entries(listed_source, known.values(), excludes)
        if gone == "remove":
            left.lost += [key for keys in left.away.values() for key in keys]
        else:
            for folder, keys in left.away.items():
                self.report.away.append(
                    f"{path / folder}: empty now, or cannot be read; {len(keys):,} images of it stay"
                )
                self.report.kept_gone += len(keys)
        if gone == "keep" or (gone == "auto" and len(left.lost) > max(_FEW_GONE, len(known) / 2)):
            self.report.kept_gone += len(left.lost)
            left.lost = []
        if left.lost or left.unwanted:
            self.report.removed += self.catalogue.forget([*left.lost, *left.unwanted])

    def _read(self, todo: Sequence[Entry]) -> Iterator[list[_Ready]]:
        """Batches of images. Other threads read and shrink the next ones while this thread encodes."""
        size = self.model.image_batch
        batches = (todo[start : start + size] for start in range(0, len(todo), size))
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
            data = self.opened[entry.source].images.raw(entry.name)
            if held is not None and held.digest == digest_of(data):
                return _Ready(replace(held, stamp=entry.stamp, own=entry.own))
            path = self.catalogue.sources.path(entry.source)
            examined = examine(entry, data, changed_seconds(path, entry.name))
            # Prepared at once: a batch of whole photographs would fill the memory.
            return _Ready(examined.entry, examined.thumbnail, self.model.prepare(examined.image))
        except UnreadableImageError as error:
            return _Ready(entry, error=str(error))
        except ValueError as error:
            shown = f"{self.catalogue.sources.path(entry.source)}/{entry.name}: {error}"
            return _Ready(entry, error=" ".join(shown.split()))

    def _write(self, batch: Sequence[_Ready]) -> None:
        """Write a batch: thumbnails and states first, so that every image in the store has them even after a kill."""
        self.report.unreadable += [ready.error for ready in batch if ready.error]
        fresh = [ready for ready in batch if ready.thumbnail is not None]
        same = [ready.entry for ready in batch if ready.thumbnail is None and ready.error is None]
        if fresh:
            encoded = self.model.encode_prepared([ready.prepared for ready in fresh])
            self.catalogue.thumbnails.put({ready.entry.key: ready.thumbnail for ready in fresh if ready.thumbnail})
            self._keep_states([ready.entry for ready in fresh], encoded)
            self.catalogue.store.upsert([ready.entry for ready in fresh], encoded.embed.cpu())
            updated = sum(ready.entry.key in self.known for ready in fresh)
            self.report.updated += updated
            self.report.added += len(fresh) - updated
        if same:
            embeds = self.catalogue.store.embeds([entry.key for entry in same])
            self.catalogue.store.upsert(same, torch.stack([embeds[entry.key] for entry in same]))
            refielded = sum(entry.own != self.known[entry.key].own for entry in same)
            self.report.updated += refielded
            self.report.skipped_known += len(same) - refielded
        self.now |= {ready.entry.key: ready.entry for ready in batch if ready.error is None}

    def _keep_states(self, entries: Sequence[Entry], encoded: Any) -> None:
        """Keep the token states of each image for every stage that reads any, while there is room."""
        stages = [(stage, items) for stage, items in by_stage(self.model, encoded) if stage.states_width]
        if self.states_room <= 0 or not stages:
            return
        packed_states: list[dict[str, bytes]] = [{} for _ in stages]
        for row, entry in enumerate(entries):
            packed = [pack_states(entry, items.states[row]) for _, items in stages]
            if sum(map(len, packed)) > self.states_room:
                break
            self.states_room -= sum(map(len, packed))
            for states, data in zip(packed_states, packed, strict=True):
                states[entry.key] = data
        for (stage, _), states in zip(stages, packed_states, strict=True):
            self.catalogue.states_for(stage).put(states)


def must_match(record: IndexRecord, index: Path, model: Model) -> None:
    """Refuse a model that did not make the index.

    Raises:
        CcmbError: its weights are not those that made the index.
    """
    if model.weights_id == record.fingerprint:
        return
    if model.source == record.model:
        raise CcmbError(f"{index}: {model.source} has been trained on since; index into a new folder")
    raise CcmbError(f"{index}: made with the model {record.model}; {model.source} has other weights")


def _open_record(out: Path, model: Model, store: str | None) -> IndexRecord:
    if (out / RECORD).is_file():
        record = IndexRecord.read(out)
        must_match(record, out, model)
        if store is not None and store != record.store:
            raise UsageError(f"{out}: its store is {record.store}; index into a new folder to use {store}")
        return record
    if out.exists() and not out.is_dir():
        raise CcmbError(f"{out}: is a file; an index is a folder")
    record = IndexRecord(form=FORM, model=model.source, fingerprint=model.weights_id, embed_dim=model.embed_dim)
    if store is not None:
        if is_local(store):
            raise UsageError(f"{store}: not the URI of a Milvus server, such as http://127.0.0.1:19530")
        record.store, record.collection = store, f"{COLLECTION}_{secrets.token_hex(6)}"
    elif (out / record.store).exists():
        raise CcmbError(f"{out}: has {record.store} but no {RECORD} that names its model; index into a new folder")
    record.write(out)
    return record
