"""A query on its way from the first stage to the order that its pages are cut from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ccmb.inference.user_images import Prepared
from ccmb.search.indexing.image_metadata import near_duplicate_groups
from ccmb.search.query import SearchQuery, Test
from ccmb.search.reranker import Candidate


@dataclass(slots=True, eq=False)
class PendingQuery:
    """A query that is being answered.

    Attributes:
        tests: its compiled conditions.
        text: row of its text among the encoded texts, if it has one.
        ranks: whether the second stage ranks its candidates.
        candidates: in the order of the first stage, and in the end in the order of the answer.
        copies: keys of near duplicates of a candidate, by its key.
        before: the earlier order that is extended for a further page.
        unknown: whether the model knows few words or none of its text.
        cut: whether the store gave as many candidates as it can.
    """

    query: SearchQuery
    tests: tuple[Test, ...]
    text: int | None = None
    ranks: bool = False
    candidates: list[Candidate] = field(default_factory=list)
    copies: dict[str, list[str]] = field(default_factory=dict)
    before: PendingQuery | None = None
    ranked: int = 0
    partial: bool = False
    unknown: bool = False
    cut: bool = False

    @property
    def depth(self) -> int:
        """The number of candidates to rank: at least a page."""
        return max(self.query.depth, self.query.k) if self.ranks else 0

    @property
    def candidates_needed(self) -> int:
        """The number of candidates that the answer needs: one more than the page, to see whether another follows."""
        return max(self.depth, self.query.offset + self.query.k + 1)

    def serves(self, later: PendingQuery) -> bool:
        """Whether a further page can be cut from this order: it is long enough, or holds all that the index has."""
        return len(self.candidates) >= later.candidates_needed or len(self.candidates) < self.candidates_needed

    def continue_from(self, before: PendingQuery) -> None:
        """Keep the order of the earlier pages, and append the candidates that are new."""
        known = {candidate.entry.key for candidate in before.candidates}
        self.candidates = [
            *before.candidates,
            *(other for other in self.candidates if other.entry.key not in known),
        ]
        self.copies |= before.copies
        self.ranked, self.partial, self.before = before.ranked, before.partial, None


def identity_of(query: SearchQuery) -> object:
    """A key that all pages of the same query share."""
    image: object = query.image
    if isinstance(query.image, Prepared):
        image = query.image.digest or query.image
    elif query.image is not None:
        image = query.image.size, hash(query.image.tobytes())
    return (
        query.text, image, query.like, query.k, query.depth, query.rank, query.where, query.budget, query.collapse,
    )  # fmt: skip


def collapse(pending: PendingQuery) -> None:
    """Keep only the first of each set of near duplicates, which is the best by cosine."""
    candidates, pending.candidates, pending.copies = pending.candidates, [], {}
    fingerprints = [candidate.entry.looks for candidate in candidates]
    for index, first in near_duplicate_groups(fingerprints, pending.candidates_needed):
        if index == first:
            pending.candidates.append(candidates[index])
        else:
            pending.copies.setdefault(candidates[first].entry.key, []).append(candidates[index].entry.key)
