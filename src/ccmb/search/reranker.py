"""The second stage: it ranks the candidates of several queries, best first, within their time budgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.inference.models.base import Model
from ccmb.inference.raw_items import RawItems, no_states
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.search.indexing.image_sources import Sources
from ccmb.search.state_cache import StateCache
from ccmb.search.vector_store import Entry

BATCH = 64  # images encoded at once
FIRST_ROUND = 8  # candidates of a query, where there is a budget and nothing is known of what they cost
_MARGIN = 0.9  # of the time that is left is planned for: costs vary
_NEWEST = 0.3  # weight of the newest measurement


@dataclass(slots=True)
class Candidate:
    """An image that the first stage found.

    Attributes:
        entry: its entry in the index.
        cosine: of its embedding and the query's.
        score: what orders it; the cosine until the second stage has ranked it.
        match, probability: set by the second stage.
        missing: whether it was to be ranked, but is gone or unreadable.
        rank: its rank by the first stage, from 1.
    """

    entry: Entry
    cosine: float
    score: float
    match: float | None = None
    probability: float | None = None
    missing: bool = False
    rank: int = 0


@dataclass(slots=True)
class Work:
    """The work of the second stage for a query.

    Attributes:
        candidates: the candidates, best first by cosine.
        text: row of its text among the encoded texts.
        depth: number of candidates to rank.
        deadline: time of the clock at which the budget ends; None without a budget.
        done: number of candidates that have been processed.
        partial: whether the budget ended before the work did.
    """

    candidates: list[Candidate]
    text: int
    depth: int
    deadline: float | None = None
    done: int = 0
    partial: bool = False

    @property
    def left(self) -> list[Candidate]:
        return self.candidates[self.done : self.depth]


@dataclass(slots=True)
class Costs:
    """Recent seconds for one pair, and for one image without states; None before the first measurement."""

    pair: float | None = None
    image: float | None = None

    def learn(self, name: str, seconds: float, count: int) -> None:
        if count:
            before, now = getattr(self, name), seconds / count
            setattr(self, name, now if before is None else before + _NEWEST * (now - before))


@dataclass(slots=True)
class SecondStage:
    """The second stage, which also measures its costs."""

    model: Model
    sources: Sources
    states: StateCache
    costs: Costs = field(default_factory=Costs)
    clock: Callable[[], float] = time.perf_counter

    def rank(self, works: Sequence[Work], texts: TowerOutput) -> None:
        """Rank the candidates of all queries, best first, each query as far as its depth and its deadline allow.

        Queries without a deadline are ranked in one call. A query with a deadline gets as many candidates at a time as
        fit, by recent costs, into its share of the time that is left.
        """
        while True:
            round_ = [(work, share) for work in works if (share := self._share(work, works)) > 0]
            if not round_:
                break
            pairs = [(candidate, work.text) for work, share in round_ for candidate in work.left[:share]]
            self._match(pairs, texts)
            for work, share in round_:
                work.done += min(share, len(work.left))
        for work in works:
            work.partial = work.done < work.depth

    def _share(self, work: Work, works: Sequence[Work]) -> int:
        """The number of a query's candidates for the next call."""
        remaining = work.left
        if not remaining or work.deadline is None:
            return len(remaining)
        seconds = _MARGIN * (work.deadline - self.clock()) / sum(bool(other.left) for other in works)
        if seconds <= 0:
            return 0
        if self.costs.pair is None:
            return min(len(remaining), FIRST_ROUND)
        held = self.states.has([candidate.entry for candidate in remaining])
        for count, is_held in enumerate(held):
            seconds -= self.costs.pair + (0.0 if is_held else self.costs.image or self.costs.pair)
            if seconds < 0:
                return count
        return len(remaining)

    def _match(self, pairs: Sequence[tuple[Candidate, int]], texts: TowerOutput) -> None:
        """Score candidates by the cross encoders; mark those that cannot be loaded as missing."""
        entries = {candidate.entry.key: candidate.entry for candidate, _ in pairs}
        read = self._states if self.model.states_width else self._images
        items = read(list(entries.values()))
        for candidate, _ in pairs:
            candidate.missing = candidate.entry.key not in items
        pairs = [(candidate, text) for candidate, text in pairs if not candidate.missing]
        if not pairs:
            return
        started = self.clock()
        rows = {key: row for row, key in enumerate(items)}
        images = self._as_items(list(items.values()))
        image_N = torch.tensor([rows[candidate.entry.key] for candidate, _ in pairs])
        text_N = torch.tensor([text for _, text in pairs])
        cosine_N = torch.tensor([candidate.cosine for candidate, _ in pairs])
        scores = self.model.score_pairs(images, texts, image_N, text_N, cosine_N)
        for (candidate, _), pair in zip(pairs, scores.rows(), strict=True):
            candidate.score, candidate.match, candidate.probability = pair.score, pair.match_score, pair.probability
        self.costs.learn("pair", self.clock() - started, len(pairs))

    def _as_items(self, items: Sequence[Any]) -> Any:
        """What the ranker scores; its cosines are known."""
        if not self.model.states_width:
            return RawItems(no_states(torch.empty(len(items), 0)), items)
        states_BSW = torch.stack(list(items))
        return TowerOutput(embed=states_BSW[:, 0], states=states_BSW)

    def _images(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """The images that still exist, for a ranker that reads images themselves."""
        started = self.clock()
        with ThreadPoolExecutor(4) as pool:
            loaded = zip(entries, pool.map(self._load, entries), strict=True)
            images = {entry.key: image for entry, image in loaded if image is not None}
        self.costs.learn("image", self.clock() - started, len(entries))
        return images

    def _states(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """The states (S, W) of the images that still exist: from the cache, or encoded from the current file."""
        stamps = {entry.key: self.sources.stamp(entry.source, entry.name) for entry in entries}
        same = [entry for entry in entries if entry.stamp and stamps[entry.key] == entry.stamp]
        states = self.states.get(same)
        missing = [entry for entry in entries if entry.key not in states and stamps[entry.key]]
        unchanged = {entry.key for entry in same}
        for start in range(0, len(missing), BATCH):
            started = self.clock()
            part = missing[start : start + BATCH]
            with ThreadPoolExecutor(4) as pool:
                loaded = list(pool.map(self._load, part))
            prepared = [image for image in loaded if image is not None]
            if prepared:
                encoded = self.model.ranker.encode_prepared(prepared).states
                read = [entry for entry, image in zip(part, loaded, strict=True) if image is not None]
                for entry, states_SW in zip(read, encoded, strict=True):
                    states[entry.key] = states_SW
                    if entry.key in unchanged:
                        self.states.put(entry, states_SW)
            self.costs.learn("image", self.clock() - started, len(part))
        return {key: states_SW.to(torch.float32) for key, states_SW in states.items()}

    def _load(self, entry: Entry) -> Any:
        try:
            return self.model.ranker.prepare(self.sources.load(entry.source, entry.name))
        except CcmbError:
            return None
