"""Queries to an index, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from ccmb.core.errors import UsageError
from ccmb.core.validation import check_min_probability, check_text
from ccmb.inference.user_images import Prepared

Comparison = Literal["==", "!=", "<", "<=", ">", ">=", "in", "under"]
FieldValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter: `field comparison value`. A query's conditions hold all at once.

    Attributes:
        field: a field of the index: "folder", "date" (ISO 8601), "width", "height", "bytes", or one of the user's own.
        comparison: "under" is for folders: the folder itself and those within; "in" takes several values.
    """

    field: str
    comparison: Comparison
    value: FieldValue | tuple[FieldValue, ...]


@dataclass(frozen=True, slots=True)
class NumberTest:
    """A compiled condition on a number: it is in one of the ranges; negated, in none of them.

    Attributes:
        ranges: each includes its first number and excludes its second.
    """

    field: str
    ranges: tuple[tuple[float, float], ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class TextTest:
    """A compiled condition on a text: it is one of the values, or in one of the folders `under`; negated, neither."""

    field: str
    values: tuple[str, ...]
    under: tuple[str, ...] = ()
    negated: bool = False


Test = NumberTest | TextTest


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A query by a text, an image, both, or an image of the index.

    Attributes:
        text: Chinese text; it is cleaned as the texts of a corpus are (`ccmb.core.text.cleaning`).
        image: RGB, or what the model has read of one.
        like: key of an image of the index ("more like this").
        k: hits of a page.
        offset: hits of the earlier pages; pages of one query never share a hit.
        depth: number of first-stage candidates that the second stage ranks.
        rank: whether the second stage is used; without it hits are ordered by cosine.
        min_probability: leave out hits whose calibrated probability of a match is lower or unknown, even if none is
        left.
        where: filters; they are exact, however few images pass.
        tests: the compiled filters, where the caller has compiled them (`SearchEngine.compile_where`).
        budget: seconds for the second stage. It ranks the best candidates first, and only as many as will very likely
            fit; the answer is then marked as partial.
        collapse: show near duplicates as one hit, the best by cosine; the others are not ranked.
    """

    text: str | None = None
    image: Image.Image | Prepared | None = None
    like: str | None = None
    k: int = 10
    offset: int = 0
    depth: int = 64
    rank: bool = True
    min_probability: float | None = None
    where: tuple[Condition, ...] = ()
    budget: float | None = None
    collapse: bool = False
    tests: tuple[Test, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An image among the results of a query.

    Attributes:
        key: of the image within the index; stable as long as its source and name are.
        name, source: its name within the folder or tar `source`.
        cosine: of its embedding and the query's, in [-1, 1].
        score: the value that orders the hits: the second stage's score by the model's rule, or the cosine for images
            that were not ranked.
        match: match score with the query text in [0, 1]; None if the second stage did not rank it.
        probability: calibrated probability of a match with the text, in [0, 1]; None if it was not ranked, or if the
            model is not calibrated.
        missing: whether the image was to be ranked, but is gone or unreadable now.
        fields: its fields in the index: folder, date, width, height, bytes and the user fields.
        copies: keys of its near duplicates among the candidates, if the query collapses them.
        first_stage_rank: its rank among the candidates of the first stage, from 1.
    """

    key: str
    name: str
    source: Path
    cosine: float
    score: float
    match: float | None = None
    probability: float | None = None
    missing: bool = False
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    copies: tuple[str, ...] = ()
    first_stage_rank: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one query, best first.

    Attributes:
        hits: at most k.
        candidates: number of candidates of the first stage, before paging and thresholds.
        ranked: number of candidates that the second stage ranked.
        partial: whether the budget ended before all `depth` candidates were ranked; the others follow, by cosine.
        more: whether there is a next page.
        unknown: whether the model knows few words or none of the text, so that the order means little.
        cut: whether this is the end of what a Milvus server returns for one query (16,384); there may be more images.
        seconds: time of each part: "encode", "pre_ranking", "ranking".
    """

    hits: tuple[Hit, ...]
    candidates: int = 0
    ranked: int = 0
    partial: bool = False
    more: bool = False
    unknown: bool = False
    cut: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def no_match(self) -> bool:
        """Whether nothing in the index is likely enough to match the query."""
        return not self.hits


def check_query(query: SearchQuery) -> None:
    """Refuse a query that no index can answer.

    Raises:
        UsageError: there is nothing to look for, its text is empty or not UTF-8, a number is out of its range, or
            there is a `min_probability` without a second stage.
    """
    if query.text is None and query.image is None and query.like is None:
        raise UsageError("nothing to search for: give a text, an image or both")
    if query.text is not None:
        check_text(query.text, "to search for")
    for name, value, lowest in (("k", query.k, 1), ("offset", query.offset, 0), ("depth", query.depth, 1)):
        if value < lowest:
            raise UsageError(f"{name} is {value}; give at least {lowest}")
    if query.budget is not None and not query.budget > 0:
        raise UsageError(f"budget is {query.budget}; give seconds, more than 0")
    check_min_probability(query.min_probability)
    if query.min_probability is not None and not (query.rank and query.text is not None):
        raise UsageError("a least probability needs the second stage: give a text, and do not switch ranking off")
