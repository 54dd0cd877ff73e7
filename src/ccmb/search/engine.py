"""Two-stage search in an index: pre-ranking by cosine in the store, ranking of the best by the cross encoders."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.inference.models.base import Model, check_gives_probability
from ccmb.inference.models.open_model import open_model, with_ranker
from ccmb.inference.models.two_models import TwoModels
from ccmb.inference.user_images import Prepared
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.search.filters import compile_conditions
from ccmb.search.frozen import refuse_writing
from ccmb.search.index_folder import Catalogue, IndexRecord, model_of, open_catalogue
from ccmb.search.indexing.image_metadata import examine
from ccmb.search.indexing.image_sources import UPLOADS
from ccmb.search.indexing.indexer import must_match
from ccmb.search.indexing.user_fields import check_user_fields, storable
from ccmb.search.pending_query import PendingQuery, collapse, identity_of
from ccmb.search.query import Condition, FieldValue, Hit, SearchQuery, SearchResult, Test, check_query
from ccmb.search.reranker import Candidate, Work
from ccmb.search.stages import FurtherStages
from ccmb.search.vector_store import Entry, is_local

STATES_BYTES = 512 * 2**20
_REMEMBERED, _LONGEST_REMEMBERED = 64, 2000  # orders that further pages may be cut from, and their candidates


class SearchEngine:
    """An open index and its model, for any number of queries.

    Its methods may be called from several threads; searches and writes take turns.

    Args:
        states_bytes: see `FurtherStages`.
    """

    def __init__(self, catalogue: Catalogue, model: Model, states_bytes: int = STATES_BYTES) -> None:
        self.catalogue, self.model = catalogue, model
        self.stages = FurtherStages(model, catalogue, states_bytes)
        self._turn = threading.RLock()
        self._orders: OrderedDict[object, PendingQuery] = OrderedDict()

    def search(self, query: SearchQuery) -> SearchResult:
        """The answer to one query; see `search_many`."""
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        """The answers to several queries. Each is the same as alone; together they are cheaper.

        A text is pre-ranked by cosine, and the best `depth` are ranked by the model's rule. An image alone is
        pre-ranked only: the cross encoders match images with texts. Given both, the mean of the two embeddings
        pre-ranks and the text ranks. A model without cross encoders pre-ranks only. Candidates that were not ranked
        come after those that were, and those that could not be come last.

        Further pages are cut from the order of the first page, while it is remembered.

        Raises:
            UsageError: a query cannot be asked, see `check_query` and `compile_conditions`, or has a `min_probability`
                and the model gives no probability, see `check_gives_probability`.
            CcmbError: the store fails, or the index has no image of a query's key.
        """
        for query in queries:
            check_query(query)
        queries = [query if query.text is None else replace(query, text=clean_query(query.text)) for query in queries]
        for query in queries:
            if query.min_probability is not None:
                check_gives_probability(self.model)
            self._check_reach(query)
        with self._turn, torch.inference_mode():
            started = self.stages.last.clock()
            batch = [
                PendingQuery(query, self.compile_where(query.where) if query.tests is None else query.tests)
                for query in queries
            ]
            for pending in batch:
                pending.before = self._orders.get(identity_of(pending.query)) if pending.query.offset else None
            fresh = [pending for pending in batch if pending.before is None or not pending.before.serves(pending)]
            seconds = self._answer_anew(fresh, started) if fresh else {}
            orders = [pending if pending in fresh else pending.before or pending for pending in batch]
            return [self._answer(order, pending.query, seconds) for order, pending in zip(orders, batch, strict=True)]

    def _check_reach(self, query: SearchQuery) -> None:
        """Refuse a query for hits beyond what the store ever gives.

        Raises:
            UsageError: it asks for more; the message says how many there are at most.
        """
        max_results = self.catalogue.store.max_results
        for what, count in (("offset and k", query.offset + query.k), ("depth", query.depth if query.rank else 0)):
            if max_results is not None and count > max_results:
                raise UsageError(
                    f"{what} ask for {count:,} images; a Milvus server gives the best {max_results:,}: narrow the "
                    "search by conditions"
                )

    def _answer_anew(self, batch: Sequence[PendingQuery], started: float) -> dict[str, float]:
        """Find and order the candidates, and return the seconds of each part."""
        texts, embed_QD = self._encode(batch)
        encoded = self.stages.last.clock()
        self._find(batch, embed_QD)
        searched = self.stages.last.clock()
        if texts is not None:
            self._rank(batch, texts, searched)
        ended = self.stages.last.clock()
        for pending in batch:
            if pending.before is not None:
                pending.continue_from(pending.before)
            self._remember(pending)
        return {"encode": encoded - started, "pre_ranking": searched - encoded, "ranking": ended - searched}

    def _remember(self, pending: PendingQuery) -> None:
        self._orders.pop(identity_of(pending.query), None)
        if len(pending.candidates) <= _LONGEST_REMEMBERED:
            self._orders[identity_of(pending.query)] = pending
        if len(self._orders) > _REMEMBERED:
            self._orders.popitem(last=False)

    def compile_where(self, where: Sequence[Condition]) -> tuple[Test, ...]:
        """Compile conditions for this index; see `compile_conditions`.

        Raises:
            UsageError: the index has no such field, or its type does not allow the comparison; the message names it.
        """
        return compile_conditions(where, self.fields_known(), self.catalogue.record.sources) if where else ()

    def _encode(self, batch: Sequence[PendingQuery]) -> tuple[TowerOutput | None, Tensor]:
        """Encode the queries: all texts, and a unit vector (Q, D) for each query."""
        parts: list[list[Tensor]] = [[] for _ in batch]
        texts = None
        with_text = [index for index, pending in enumerate(batch) if pending.query.text is not None]
        if with_text:
            words = [batch[index].query.text or "" for index in with_text]
            unknown, texts = self.model.unknown(words), self.model.encode_texts(words)
            for row, (index, embed_D) in enumerate(zip(with_text, texts.embed, strict=True)):
                parts[index].append(embed_D)
                batch[index].unknown = unknown[row]
                batch[index].text, batch[index].ranks = row, batch[index].query.rank and self.model.can_rank
        images = [
            (index, pending.query.image) for index, pending in enumerate(batch) if pending.query.image is not None
        ]
        if images:
            embed_BD = self.model.embed_prepared(
                [image.value if isinstance(image, Prepared) else self.model.prepare(image) for _, image in images]
            )
            for (index, _), embed_D in zip(images, embed_BD, strict=True):
                parts[index].append(embed_D)
        liked = self.catalogue.store.embeds([pending.query.like for pending in batch if pending.query.like is not None])
        for part, pending in zip(parts, batch, strict=True):
            if pending.query.like is not None:
                if pending.query.like not in liked:
                    raise CcmbError(f"{pending.query.like}: no such image in the index")
                part.append(liked[pending.query.like])
        return texts, F.normalize(torch.stack([torch.stack(part).mean(0) for part in parts]), dim=1)

    def _find(self, batch: Sequence[PendingQuery], embed_QD: Tensor) -> None:
        """Find the candidates of the first stage, best first; collapsing near duplicates may need further rounds."""
        limit = self.catalogue.store.max_results or sys.maxsize
        open_queries = list(range(len(batch)))
        count = min(max(pending.candidates_needed for pending in batch) + 1, limit)
        while open_queries:
            results = self.catalogue.store.search_many(
                embed_QD[open_queries], count, [batch[index].tests for index in open_queries]
            )
            entries = self.catalogue.store.get(list({near.key for neighbours in results for near in neighbours}))
            again = []
            for index, neighbours in zip(open_queries, results, strict=True):
                pending = batch[index]
                pending.candidates = [
                    Candidate(entries[near.key], near.cosine, near.cosine)
                    for near in neighbours
                    if near.key in entries and near.key != pending.query.like
                ]
                if pending.query.collapse:
                    collapse(pending)
                    if len(pending.candidates) < pending.candidates_needed and len(neighbours) == count < limit:
                        again.append(index)
                pending.cut = len(neighbours) == limit
                del pending.candidates[pending.candidates_needed :]
                for rank, candidate in enumerate(pending.candidates, start=1):
                    candidate.rank = rank
            open_queries, count = again, min(4 * count, limit)

    def _rank(self, batch: Sequence[PendingQuery], texts: TowerOutput, now: float) -> None:
        """Rank the best candidates of each query by the second stage."""
        ranking = [pending for pending in batch if pending.ranks and pending.before is None]
        works = [
            Work(pending.candidates, pending.text or 0, min(pending.depth, len(pending.candidates)),
                 None if pending.query.budget is None else now + pending.query.budget)
            for pending in ranking
        ]  # fmt: skip
        self.stages.rank(works, texts)
        for pending, work in zip(ranking, works, strict=True):
            pending.partial = work.partial
            pending.ranked = sum(candidate.match is not None for candidate in pending.candidates)
            # Those that were not ranked stay in the order in which they are.
            pending.candidates.sort(
                key=lambda one: (one.missing, one.match is None, 0.0 if one.match is None else -one.score)
            )

    def _answer(self, order: PendingQuery, query: SearchQuery, seconds: Mapping[str, float]) -> SearchResult:
        """The page of a query, from the order of its candidates."""
        candidates = order.candidates
        if (min_probability := query.min_probability) is not None:
            candidates = [
                candidate
                for candidate in candidates
                if candidate.probability is not None and candidate.probability >= min_probability
            ]
        end = query.offset + query.k
        return SearchResult(
            tuple(self._hit(candidate, order) for candidate in candidates[query.offset : end]),
            candidates=len(order.candidates), ranked=order.ranked, partial=order.partial, more=len(candidates) > end,
            unknown=order.unknown, cut=order.cut and len(candidates) <= end, seconds=seconds,
        )  # fmt: skip

    def _hit(self, candidate: Candidate, order: PendingQuery) -> Hit:
        entry = candidate.entry
        return Hit(
            key=entry.key,
            name=entry.name,
            source=self.catalogue.sources.path(entry.source),
            cosine=candidate.cosine,
            score=candidate.score,
            match=candidate.match,
            probability=candidate.probability,
            missing=candidate.missing,
            fields=self.catalogue.fields(entry),
            copies=tuple(order.copies.get(entry.key, ())),
            first_stage_rank=candidate.rank,
        )

    def image(self, key: str) -> Image.Image:
        """See `Catalogue.image`."""
        with self._turn:
            entry = self.catalogue.entry(key)
        return self.catalogue.sources.load(entry.source, entry.name)

    def thumbnail(self, key: str) -> bytes:
        """See `Catalogue.thumbnail`."""
        thumbnails = self.catalogue.thumbnails.get([key])  # dozens are asked for at a time: they wait for no search
        if key in thumbnails:
            return thumbnails[key]
        with self._turn:
            return self.catalogue.thumbnail(key)

    def fields(self, key: str) -> Mapping[str, FieldValue]:
        """The fields of an image.

        Raises:
            CcmbError: the index has no image of this key.
        """
        with self._turn:
            return self.catalogue.fields(self.catalogue.entry(key))

    def fields_known(self) -> dict[str, type]:
        """The names and types of the fields that conditions can name."""
        return self.catalogue.record.types

    def add(self, name: str, data: bytes, fields: Mapping[str, FieldValue] | None = None) -> str:
        """Save an image in the index's own folder, index it, and return its key.

        Args:
            name: name of the file, such as "猫.jpg"; the saved name has a random part.

        Raises:
            UsageError: the bytes are no readable image, or a field cannot be used.
            CcmbError: the index cannot be written.
        """
        self._must_be_writable()
        user_fields = check_user_fields(fields or {})
        try:
            examined = examine(Entry(UPLOADS, name), data)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
        prepared = self.model.prepare(examined.image)
        with self._turn, torch.inference_mode():
            if self.catalogue.record.learn_fields(user_fields, name):
                self.catalogue.record.write(self.catalogue.folder)
            encoded = self.model.encode_prepared([prepared])
            entry = self.catalogue.upload(examined, data, storable(user_fields))
            self.catalogue.thumbnails.put({entry.key: examined.thumbnail})
            self.catalogue.store.upsert([entry], encoded.embed)
            self.stages.put_states(entry, encoded)
            return entry.key

    @property
    def frozen(self) -> bool:
        """Whether the index can be searched but not written to."""
        return self.catalogue.frozen

    def _must_be_writable(self) -> None:
        if self.frozen:
            raise refuse_writing(self.catalogue.folder)

    def delete(self, keys: Sequence[str]) -> int:
        """Remove images from the index, and return how many there were. Only the index's own files are deleted."""
        self._must_be_writable()
        with self._turn:
            count = self.catalogue.forget(keys)
            gone = set(keys)
            self.stages.drop_states(gone)
            for order in self._orders.values():
                order.candidates = [candidate for candidate in order.candidates if candidate.entry.key not in gone]
            return count

    def __len__(self) -> int:
        with self._turn:
            return len(self.catalogue.store)


@contextmanager
def open_engine(
    index: Path,
    model: str | Path | None = None,
    fast: bool = False,
    opened: Model | None = None,
    ranker: str | None = None,
    states_bytes: int = STATES_BYTES,
    *,
    coarse_dim: int | None = None,
) -> Iterator[SearchEngine]:
    """Open an index folder for searching.

    Args:
        model: what `ccmb.inference.models.open_model` opens; by default the one that made the index.
        fast: compute with the model's int8 export, see `ccmb.r2d2.onnx.export.fast_export`.
        opened: the model, if it is open already.
        ranker: another second stage, see `ccmb.inference.models.open_model.open_ranker`.
        states_bytes: see `SearchEngine`.
        coarse_dim: see `ccmb.search.index_folder.open_catalogue`.

    Raises:
        UsageError: see there.
        CcmbError: index or model is missing or damaged, another model made the index, or another process is using
            the index.
    """
    record = IndexRecord.read(index)
    source = model_of(index, model)
    if is_local(record.store) and not (index / record.store).exists():
        raise CcmbError(f"{index / record.store}: missing; index the images again")
    first = open_model(source, fast=fast) if opened is None else opened
    must_match(record, index, first)
    ranked = first if ranker is None else with_ranker(first, ranker)
    if isinstance(ranked, TwoModels) and (kept := record.calibrations.get(ranked.ranker.fingerprint)) is not None:
        ranked.calibrate(kept.temperature, kept.offset)
    with open_catalogue(index, record, to_write=False, coarse_dim=coarse_dim) as catalogue:
        yield SearchEngine(catalogue, ranked, states_bytes)
