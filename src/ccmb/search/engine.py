"""Two-stage search in an index: pre-ranking by cosine in the store, ranking of the best by the cross encoders."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ccmb.errors import CcmbError, UsageError
from ccmb.r2d2.loading import load_model, model_folder
from ccmb.r2d2.modeling import R2D2Model, TowerOutput
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.ranking import rank_pairs, ranking_scores
from ccmb.search.index import IndexRecord
from ccmb.search.query import Answer, FieldValue, Hit, Query, check_query
from ccmb.search.sources import Sources
from ccmb.search.store import Entry, VectorStore, is_local
from ccmb.training.trainer import inference

BATCH = 64
THUMBNAIL = 320  # pixels of the longer side


@dataclass(slots=True)
class _Asked:
    """A query on its way: its place among the texts of the call, and its hits so far."""

    query: Query
    text: int | None
    ranks: bool
    hits: list[Hit]
    ranked: int = 0

    @property
    def depth(self) -> int:
        """How many candidates are ranked: at least a page."""
        return max(self.query.depth, self.query.k) if self.ranks else 0


class SearchEngine:
    """An open index and its model, for any number of queries.

    Its methods may be called from several threads; they take turns.
    """

    def __init__(self, store: VectorStore, model: R2D2Model, processor: R2D2Processor) -> None:
        self.store, self.model, self.processor = store, model, processor
        self._sources = Sources()
        self._turn = threading.RLock()

    def search(self, query: Query) -> Answer:
        """The answer to one query; see `search_many`."""
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[Query]) -> list[Answer]:
        """The answers to several queries, each what it would be alone, and together cheaper.

        A text is pre-ranked by cosine, and the best `depth` are ranked by the model's rule. A picture alone is
        pre-ranked only: the cross encoders match pictures with texts. Given both, the mean of the two embeddings
        pre-ranks and the text ranks. A model without cross encoders pre-ranks only. Candidates that were not ranked
        come after those that were, and those that could not be come last.

        Raises:
            UsageError: a query cannot be asked, see `check_query`, or has a `min_probability` and no second stage.
        """
        for query in queries:
            check_query(query)
            if query.min_probability is not None and not self.model.can_rank:
                raise UsageError("a least probability needs a model with cross encoders")
        if not queries:
            return []
        with self._turn, inference(self.model):
            clock = _Clock()
            asked, texts, embed_QD = self._encode(queries)
            clock.lap("encode")
            for of, found in zip(asked, self._find(asked, embed_QD), strict=True):
                of.hits = found
            clock.lap("pre_ranking")
            if texts is not None:
                self._rank(asked, texts)
            clock.lap("ranking")
            return [_answer(of, clock.seconds) for of in asked]

    def picture(self, key: str) -> Image.Image:
        """A picture of the index, as RGB.

        Raises:
            CcmbError: there is none of this key, or it is gone or unreadable now.
        """
        entry = self._entry(key)
        return self._sources.load(entry.source, entry.name)

    def thumbnail(self, key: str) -> bytes:
        """A picture of the index, small, as JPEG.

        Raises:
            CcmbError: there is none of this key, or it is gone or unreadable now.
        """
        small, file = self.picture(key), io.BytesIO()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        small.save(file, "JPEG", quality=85)
        return file.getvalue()

    def fields(self, key: str) -> Mapping[str, FieldValue]:
        """What the index knows of a picture.

        Raises:
            CcmbError: there is none of this key.
        """
        self._entry(key)
        return {}

    def fields_known(self) -> dict[str, type]:
        """Names and types of the fields that conditions can be put on."""
        return {}

    def __len__(self) -> int:
        with self._turn:
            return len(self.store)

    def _entry(self, key: str) -> Entry:
        with self._turn:
            found = self.store.get([key])
        if key not in found:
            raise CcmbError(f"{key}: no such picture in the index")
        return found[key]

    def _encode(self, queries: Sequence[Query]) -> tuple[list[_Asked], TowerOutput | None, Tensor]:
        """What is asked, all texts encoded, and (Q, D) unit vectors to search by."""
        parts: list[list[Tensor]] = [[] for _ in queries]
        places = [place for place, query in enumerate(queries) if query.text is not None]
        texts = None
        if places:
            tokens = self.processor.texts([queries[place].text or "" for place in places])
            texts = self.model.encode_text(**{name: value.to(self.model.device) for name, value in tokens.items()})
            for place, embed_D in zip(places, texts.embed.cpu(), strict=True):
                parts[place].append(embed_D)
        pictures = [(place, query.picture) for place, query in enumerate(queries) if query.picture is not None]
        if pictures:
            encoded = self._encode_pictures([self.processor.images([picture]) for _, picture in pictures])
            for (place, _), embed_D in zip(pictures, encoded.embed.cpu(), strict=True):
                parts[place].append(embed_D)
        for part, query in zip(parts, queries, strict=True):
            if query.like is not None:
                part.append(self.store.embed(query.like))
        embed_QD = F.normalize(torch.stack([torch.stack(part).mean(0) for part in parts]), dim=1)
        return [
            _Asked(query, places.index(place) if place in places else None, self._ranks(query), [])
            for place, query in enumerate(queries)
        ], texts, embed_QD  # fmt: skip

    def _ranks(self, query: Query) -> bool:
        return query.rank and query.text is not None and self.model.can_rank

    def _find(self, asked: Sequence[_Asked], embed_QD: Tensor) -> list[list[Hit]]:
        """Candidates of the first stage, best first; one more than a page, to know whether there is another."""
        wanted = [max(of.depth, of.query.offset + of.query.k + 1 + (of.query.like is not None)) for of in asked]
        found = self.store.search_many(embed_QD, max(wanted))
        return [
            [
                Hit(near.entry.key, near.entry.name, Path(near.entry.source), near.cosine, near.cosine)
                for near in nears[:most]
                if near.entry.key != of.query.like
            ]
            for of, nears, most in zip(asked, found, wanted, strict=True)
        ]

    def _rank(self, asked: Sequence[_Asked], texts: TowerOutput) -> None:
        """Give the best hits of each query their match scores and probabilities, and put them in order.

        The image states are computed anew from the pictures. For 64 pictures of 96 px that is half of a query's half
        second on one core; kept in float16 instead they would take 20 times the room of the embeddings (170 times for
        ViT-L/14, more than the pictures themselves) and would have to be kept in step with the store.
        """
        pairs = [(of, place) for of in asked if of.ranks for place in range(min(of.depth, len(of.hits)))]
        for start in range(0, len(pairs), BATCH):
            self._match(pairs[start : start + BATCH], texts)
        for of in asked:
            if of.ranks:
                of.ranked = sum(hit.match is not None for hit in of.hits)
                of.hits.sort(key=lambda hit: (hit.missing, hit.match is None, -hit.score))

    def _match(self, pairs: Sequence[tuple[_Asked, int]], texts: TowerOutput) -> None:
        pixels: dict[str, Tensor] = {}
        lost: set[str] = set()
        for of, place in pairs:
            hit = of.hits[place]
            if hit.key in pixels or hit.key in lost:
                continue
            try:
                pixels[hit.key] = self.processor.images([self._sources.load(hit.source, hit.name)])
            except CcmbError:
                lost.add(hit.key)
        for of, place in pairs:
            if of.hits[place].key in lost:
                of.hits[place] = replace(of.hits[place], missing=True)
        pairs = [(of, place) for of, place in pairs if not of.hits[place].missing]
        if not pairs:
            return
        rows = {key: row for row, key in enumerate(pixels)}
        image_N = torch.tensor([rows[of.hits[place].key] for of, place in pairs])
        text_N = torch.tensor([of.text for of, _ in pairs])
        match = rank_pairs(self.model, self._encode_pictures(list(pixels.values())), texts, image_N, text_N)
        scores = ranking_scores(self.model, torch.tensor([of.hits[place].cosine for of, place in pairs]), match)
        columns = (scores.tolist(), match.score.tolist(), match.probability.tolist())
        for (of, place), score, of_match, probability in zip(pairs, *columns, strict=True):
            of.hits[place] = replace(of.hits[place], score=score, match=of_match, probability=probability)

    def _encode_pictures(self, pixels: list[Tensor]) -> TowerOutput:
        return self.model.encode_image(torch.cat(pixels).to(self.model.device))


@contextmanager
def open_engine(
    index: Path, model: str | Path | None = None, network: R2D2Model | None = None
) -> Iterator[SearchEngine]:
    """An index folder, opened for searching.

    Args:
        model: run or model folder; by default the one that made the index.
        network: to be used in place of the one in the model folder, of which it is another form.

    Raises:
        CcmbError: index or model is missing or damaged, the model is not the index's, or another process is using
            the index.
    """
    record = IndexRecord.read(index)
    folder = _find_model(index, record, model)
    record.must_match(index, folder)
    if is_local(record.store) and not (index / record.store).exists():
        raise CcmbError(f"{index / record.store}: missing; index the pictures again")
    if network is None:
        network, processor = load_model(folder)
    else:
        processor = R2D2Processor.from_pretrained(folder)
    with record.open_store(index) as store:
        yield SearchEngine(store, network, processor)


def _find_model(index: Path, record: IndexRecord, model: str | Path | None) -> Path:
    if model is not None:
        return model_folder(model)
    if not Path(record.model).is_dir():
        raise CcmbError(f"{index}: the model that made it, {record.model}, is gone; say where it is with --model")
    return model_folder(record.model)


def _answer(of: _Asked, seconds: Mapping[str, float]) -> Answer:
    query, hits = of.query, of.hits
    if query.min_probability is not None:
        hits = [hit for hit in hits if hit.probability is not None and hit.probability >= query.min_probability]
    end = query.offset + query.k
    return Answer(
        tuple(hits[query.offset : end]), candidates=len(of.hits), ranked=of.ranked, more=len(hits) > end,
        seconds=seconds,
    )  # fmt: skip


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now
