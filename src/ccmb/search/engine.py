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

from ccmb.core.device import inference
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.inference.interface import TwoStageModel, load_network
from ccmb.inference.scoring import check_gives_probability
from ccmb.inference.stages import R2D2Encoder, R2D2Ranker
from ccmb.r2d2.inputs.unknown_words import wholly_unknown
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.processing import R2D2Processor
from ccmb.search.filters import Test, compile_conditions
from ccmb.search.frozen import refuse_writing
from ccmb.search.index_folder import Catalogue, IndexRecord, model_of, open_catalogue
from ccmb.search.indexing.image_metadata import examine
from ccmb.search.indexing.image_sources import UPLOADS
from ccmb.search.indexing.indexer import must_match
from ccmb.search.indexing.user_fields import check_user_fields, storable
from ccmb.search.pending_query import PendingQuery, collapse, identity_of
from ccmb.search.query import FieldValue, Hit, SearchQuery, SearchResult, check_query
from ccmb.search.reranker import Candidate, SecondStage, Work
from ccmb.search.state_cache import StateCache
from ccmb.search.vector_store import Entry, is_local

STATES_BYTES = 512 * 2**20
_REMEMBERED, _LONGEST_REMEMBERED = 64, 2000  # orders that further pages may be cut from, and their candidates


class SearchEngine:
    """An open index and its model, for any number of queries.

    Its methods may be called from several threads; searches and writes take turns.

    Args:
        states_bytes: most memory for token states of images that were ranked lately.
    """

    def __init__(
        self, catalogue: Catalogue, model: TwoStageModel, processor: R2D2Processor, states_bytes: int = STATES_BYTES
    ) -> None:
        self.catalogue, self.model, self.processor = catalogue, model, processor
        self.encoder, scorer = R2D2Encoder(model, processor), R2D2Ranker(model)
        width = model.config.image_width
        states = StateCache(catalogue.states, width, states_bytes)
        self.second_stage = SecondStage(self.encoder, scorer, catalogue.sources, states)
        self._turn = threading.RLock()
        self._orders: OrderedDict[object, PendingQuery] = OrderedDict()

    def search(self, query: SearchQuery) -> SearchResult:
        """The answer to one query; see `search_many`."""
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        """The answers to several queries, each what it would be alone, and together cheaper.

        A text is pre-ranked by cosine, and the best `depth` are ranked by the model's rule. An image alone is
        pre-ranked only: the cross encoders match images with texts. Given both, the mean of the two embeddings
        pre-ranks and the text ranks. A model without cross encoders pre-ranks only. Candidates that were not ranked
        come after those that were, and those that could not be come last.

        Further pages are cut from the order of the first one, if that was asked for lately.

        Raises:
            UsageError: a query cannot be asked, see `check_query` and `compile_conditions`, or has a `min_probability`
                and the model gives no probability, see `check_gives_probability`.
            CcmbError: the store fails, or there is no image of a query's key.
        """
        for query in queries:
            check_query(query)
        queries = [of if of.text is None else replace(of, text=clean_query(of.text)) for of in queries]
        for query in queries:
            if query.min_probability is not None:
                check_gives_probability(self.model)
            self._check_reach(query)
        with self._turn, inference(self.model):
            started = self.second_stage.clock()
            asked = [PendingQuery(query, self._tests(query)) for query in queries]
            for of in asked:
                of.before = self._orders.get(identity_of(of.query)) if of.query.offset else None
            fresh = [of for of in asked if of.before is None or not of.before.serves(of)]
            seconds = self._answer_anew(fresh, started) if fresh else {}
            return [self._answer(of if of in fresh else of.before or of, of.query, seconds) for of in asked]

    def _check_reach(self, query: SearchQuery) -> None:
        """
        Raises:
            UsageError: hits are asked for that lie beyond what the store ever gives.
        """
        maximum = self.catalogue.store.max_results
        for what, count in (("offset and k", query.offset + query.k), ("depth", query.depth if query.rank else 0)):
            if maximum is not None and count > maximum:
                raise UsageError(
                    f"{what} ask for {count:,} images; a Milvus server gives the best {maximum:,}: narrow the search "
                    "by conditions"
                )

    def _answer_anew(self, asked: Sequence[PendingQuery], started: float) -> dict[str, float]:
        """Find and order the candidates; returns the seconds of each part."""
        texts, embed_QD = self._encode(asked)
        encoded = self.second_stage.clock()
        self._find(asked, embed_QD)
        found = self.second_stage.clock()
        if texts is not None:
            self._rank(asked, texts, found)
        ended = self.second_stage.clock()
        for of in asked:
            if of.before is not None:
                of.continue_from(of.before)
            self._remember(of)
        return {"encode": encoded - started, "pre_ranking": found - encoded, "ranking": ended - found}

    def _remember(self, of: PendingQuery) -> None:
        self._orders.pop(identity_of(of.query), None)
        if len(of.candidates) <= _LONGEST_REMEMBERED:
            self._orders[identity_of(of.query)] = of
        if len(self._orders) > _REMEMBERED:
            self._orders.popitem(last=False)

    def _tests(self, query: SearchQuery) -> tuple[Test, ...]:
        if not query.where:
            return ()
        return compile_conditions(query.where, self.fields_known(), self.catalogue.record.sources)

    def _encode(self, asked: Sequence[PendingQuery]) -> tuple[TowerOutput | None, Tensor]:
        """All texts encoded, and (Q, D) unit vectors to search by."""
        parts: list[list[Tensor]] = [[] for _ in asked]
        texts = None
        with_text = [place for place, of in enumerate(asked) if of.query.text is not None]
        if with_text:
            words = [asked[place].query.text or "" for place in with_text]
            unknown, texts = wholly_unknown(self.processor, words), self.encoder.encode_texts(words)
            for row, (place, embed_D) in enumerate(zip(with_text, texts.embed, strict=True)):
                parts[place].append(embed_D)
                asked[place].unknown = unknown[row]
                asked[place].text, asked[place].ranks = row, asked[place].query.rank and self.model.can_rank
        images = [(place, of.query.image) for place, of in enumerate(asked) if of.query.image is not None]
        if images:
            encoded = self.encoder.encode_pixels(self.processor.images([image for _, image in images]))
            for (place, _), embed_D in zip(images, encoded.embed, strict=True):
                parts[place].append(embed_D)
        liked = self.catalogue.store.embeds([of.query.like for of in asked if of.query.like is not None])
        for part, of in zip(parts, asked, strict=True):
            if of.query.like is not None:
                if of.query.like not in liked:
                    raise CcmbError(f"{of.query.like}: no such image in the index")
                part.append(liked[of.query.like])
        return texts, F.normalize(torch.stack([torch.stack(part).mean(0) for part in parts]), dim=1)

    def _find(self, asked: Sequence[PendingQuery], embed_QD: Tensor) -> None:
        """Candidates of the first stage, best first. Where near duplicates are collapsed more may be needed."""
        limit = self.catalogue.store.max_results or sys.maxsize
        places, maximum = list(range(len(asked))), min(max(of.wanted for of in asked) + 1, limit)
        while places:
            found = self.catalogue.store.search_many(
                embed_QD[places], maximum, [asked[place].tests for place in places]
            )
            entries = self.catalogue.store.get(list({near.key for nears in found for near in nears}))
            again = []
            for place, nears in zip(places, found, strict=True):
                of = asked[place]
                of.candidates = [
                    Candidate(entries[near.key], near.cosine, near.cosine)
                    for near in nears
                    if near.key in entries and near.key != of.query.like
                ]
                if of.query.collapse:
                    collapse(of)
                    if len(of.candidates) < of.wanted and len(nears) == maximum < limit:
                        again.append(place)
                of.cut = len(nears) == limit
                del of.candidates[of.wanted :]
                for number, candidate in enumerate(of.candidates, start=1):
                    candidate.place = number
            places, maximum = again, min(4 * maximum, limit)

    def _rank(self, asked: Sequence[PendingQuery], texts: TowerOutput, now: float) -> None:
        """Give the best candidates of each query their match scores and probabilities, and put them in order."""
        ranking = [of for of in asked if of.ranks and of.before is None]
        works = [
            Work(of.candidates, of.text or 0, min(of.depth, len(of.candidates)),
                 None if of.query.budget is None else now + of.query.budget)
            for of in ranking
        ]  # fmt: skip
        self.second_stage.rank(works, texts)
        for of, work in zip(ranking, works, strict=True):
            of.partial = work.done < work.depth
            of.ranked = sum(candidate.match is not None for candidate in of.candidates)
            of.candidates.sort(key=lambda found: (found.missing, found.match is None, -found.score))

    def _answer(self, of: PendingQuery, query: SearchQuery, seconds: Mapping[str, float]) -> SearchResult:
        """A page of an order."""
        candidates = of.candidates
        if (minimum := query.min_probability) is not None:
            candidates = [
                found for found in candidates if found.probability is not None and found.probability >= minimum
            ]
        end = query.offset + query.k
        return SearchResult(
            tuple(self._hit(found, of) for found in candidates[query.offset : end]),
            candidates=len(of.candidates), ranked=of.ranked, partial=of.partial, more=len(candidates) > end,
            unknown=of.unknown, cut=of.cut and len(candidates) <= end, seconds=seconds,
        )  # fmt: skip

    def _hit(self, found: Candidate, of: PendingQuery) -> Hit:
        entry = found.entry
        return Hit(
            key=entry.key,
            name=entry.name,
            source=self.catalogue.sources.path(entry.source),
            cosine=found.cosine,
            score=found.score,
            match=found.match,
            probability=found.probability,
            missing=found.missing,
            fields=self.catalogue.fields(entry),
            copies=tuple(of.copies.get(entry.key, ())),
            place=found.place,
        )

    def image(self, key: str) -> Image.Image:
        """See `Catalogue.image`."""
        with self._turn:
            entry = self.catalogue.entry(key)
        return self.catalogue.sources.load(entry.source, entry.name)

    def thumbnail(self, key: str) -> bytes:
        """See `Catalogue.thumbnail`."""
        found = self.catalogue.thumbnails.get([key])  # dozens are asked for at a time: they wait for no search
        if key in found:
            return found[key]
        with self._turn:
            return self.catalogue.thumbnail(key)

    def fields(self, key: str) -> Mapping[str, FieldValue]:
        """What the index knows of an image.

        Raises:
            CcmbError: there is none of this key.
        """
        with self._turn:
            return self.catalogue.fields(self.catalogue.entry(key))

    def fields_known(self) -> dict[str, type]:
        """Names and types of the fields that conditions can be put on."""
        return self.catalogue.record.types

    def add(self, name: str, data: bytes, fields: Mapping[str, FieldValue] | None = None) -> str:
        """Index an image whose bytes are kept in the index's own folder; its key.

        Args:
            name: of the file, such as "猫.jpg"; another number is put to it.

        Raises:
            UsageError: the bytes are no readable image, or a field cannot be used.
            CcmbError: the index cannot be written.
        """
        self._must_be_writable()
        own = check_user_fields(fields or {})
        try:
            examined = examine(Entry(UPLOADS, name), data)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
        pixels = self.processor.images([examined.image])
        with self._turn, inference(self.model):
            if self.catalogue.record.learn_fields(own, name):
                self.catalogue.record.write(self.catalogue.folder)
            encoded = self.encoder.encode_pixels(pixels)
            entry = self.catalogue.upload(examined, data, storable(own))
            self.catalogue.thumbnails.put({entry.key: examined.thumbnail})
            self.catalogue.store.upsert([entry], encoded.embed)
            self.second_stage.states.put(entry, encoded.states[0])
            return entry.key

    @property
    def frozen(self) -> bool:
        """Whether the index cannot be written to; it can be searched all the same."""
        return self.catalogue.frozen

    def _must_be_writable(self) -> None:
        if self.frozen:
            raise refuse_writing(self.catalogue.folder)

    def delete(self, keys: Sequence[str]) -> int:
        """Take images out of the index; how many there were. Files are removed only if they are the index's own."""
        self._must_be_writable()
        with self._turn:
            count = self.catalogue.forget(keys)
            gone = set(keys)
            self.second_stage.states.drop(gone)
            for of in self._orders.values():
                of.candidates = [found for found in of.candidates if found.entry.key not in gone]
            return count

    def __len__(self) -> int:
        with self._turn:
            return len(self.catalogue.store)


@contextmanager
def open_engine(
    index: Path,
    model: str | Path | None = None,
    fast: bool = False,
    network: TwoStageModel | None = None,
    states_bytes: int = STATES_BYTES,
) -> Iterator[SearchEngine]:
    """An index folder, opened for searching.

    Args:
        model: run or model folder; by default the one that made the index.
        fast: compute with the model's int8 export, see `ccmb.r2d2.onnx.export.fast_export`.
        network: the model's, where it has been loaded already.
        states_bytes: see `SearchEngine`.

    Raises:
        CcmbError: index or model is missing or damaged, the model is not the index's, or another process is using
            the index.
    """
    record = IndexRecord.read(index)
    folder = model_of(index, model)
    must_match(record, index, folder)
    if is_local(record.store) and not (index / record.store).exists():
        raise CcmbError(f"{index / record.store}: missing; index the images again")
    if network is None:
        network, processor = load_network(folder, fast)
    else:
        processor = R2D2Processor.from_pretrained(folder)
    with open_catalogue(index, record, to_write=False) as catalogue:
        yield SearchEngine(catalogue, network, processor, states_bytes)
