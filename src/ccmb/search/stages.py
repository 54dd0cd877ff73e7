"""All stages behind the first one: a second stage alone, or one that chooses in front of the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ccmb.inference.models.base import Model
from ccmb.inference.models.three_stages import ThreeStages, by_stage
from ccmb.search.index_folder import Catalogue
from ccmb.search.reranker import Candidate, SecondStage, Work
from ccmb.search.state_cache import StateCache
from ccmb.search.vector_store import Entry

_FOR_CHOOSING = 0.5  # of a query's budget at most


class FurtherStages:
    """The second stage of a model, or its second and third.

    Args:
        states_bytes: the maximum memory for token states of images that were ranked lately, of each stage.

    Attributes:
        last: what orders in the end.
        chooser: what chooses the last one's candidates; None if it orders all.
        keep: how many it chooses of a query's.
    """

    def __init__(self, model: Model, catalogue: Catalogue, states_bytes: int) -> None:
        self.model = model
        *choosers, self.last = (
            SecondStage(
                stage,
                catalogue.sources,
                StateCache(catalogue.states_for(stage), max(1, stage.states_width), states_bytes, stage.states_dtype),
            )
            for stage, _ in by_stage(model)
        )
        self.chooser = choosers[0] if choosers else None
        self.keep = model.keep if isinstance(model, ThreeStages) else 0

    def rank(self, works: Sequence[Work], texts: Any) -> None:
        """Rank the candidates of all queries; where a stage chooses, those that it leaves behind keep its order."""
        if self.chooser is None:
            self.last.rank(works, texts)
            return
        now = self.chooser.clock()
        chosen = [
            replace(work, deadline=None if work.deadline is None else now + _FOR_CHOOSING * (work.deadline - now))
            for work in works
        ]
        self.chooser.rank(chosen, texts.chooser)
        for work, choice in zip(works, chosen, strict=True):
            _put_in_order(choice.candidates, choice.done)
            work.depth = min(self.keep, work.depth)
        self.last.rank(works, texts.last)
        for work, choice in zip(works, chosen, strict=True):
            work.partial |= choice.partial

    def put_states(self, entry: Entry, encoded: Any) -> None:
        """Hold the states of a new image, the only one of what was encoded."""
        for stage, (model, items) in zip(self.in_order(), by_stage(self.model, encoded), strict=True):
            if model.states_width:
                stage.states.put(entry, items.states[0])

    def drop_states(self, keys: set[str]) -> None:
        """Forget images that have left the index."""
        for stage in self.in_order():
            stage.states.drop(keys)

    def in_order(self) -> list[SecondStage]:
        """The stages as a query goes through them."""
        return [self.last] if self.chooser is None else [self.chooser, self.last]


def _put_in_order(candidates: list[Candidate], done: int) -> None:
    """Order the candidates that were looked at, and forget the scores: they are not those of the last stage."""
    candidates[:done] = sorted(candidates[:done], key=lambda candidate: (candidate.missing, -candidate.score))
    for candidate in candidates[:done]:
        candidate.score, candidate.match, candidate.probability = candidate.cosine, None, None
