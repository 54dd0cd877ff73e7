"""What a corpus of the simulated web made of what was planted there: false pairs, copies, and good pairs.

A picture counts if it came: links that are dead, or whose server failed, say nothing of the filters. A picture that was
taken for a copy stands for the one that stays.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.corpus.analysis.reader import index_parts, read_part
from ccmb.corpus.assembly.deduplicate_images import EXACT, NEAR
from ccmb.corpus.texts.normalize import clean

# What a build must reach: the least share that is removed, or the greatest share of good pairs that is lost.
TARGETS = {
    "wrong_pairs": 0.95, "spam": 0.95, "exact_texts": 0.99, "near_texts": 0.90, "exact_pictures": 0.99,
    "near_pictures": 0.90, "good_pairs_lost": 0.10,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planted:
    """How much of a kind was planted, and how much of it the build removed (of good pairs: lost)."""

    kind: str
    planted: int
    removed: int

    @property
    def share(self) -> float:
        return self.removed / self.planted if self.planted else float("nan")

    @property
    def target(self) -> float:
        return TARGETS[self.kind]

    @property
    def reached(self) -> bool:
        return self.share <= self.target if self.kind == "good_pairs_lost" else self.share >= self.target


def planted_figures(web: Path, corpus: Path) -> list[Planted]:
    """
    Args:
        web: the folder of `ccmb.corpus.simulation.logs.simulate`.
        corpus: built from it.
    """
    from pyarrow import parquet

    truth: list[dict[str, Any]] = parquet.read_table(web / "truth.parquet").to_pylist()
    leaders, statuses = _leaders(corpus)
    found = _texts_of_pictures(corpus)
    came = [row | {"picture": leaders[row["image_url"]]} for row in truth if row["image_url"] in leaders]
    texts = _Texts([row | {"text": clean(row["text"], simplified=True)} for row in came], found)
    return [
        texts.removed("wrong_pairs", "wrong"),
        texts.removed("spam", "spam"),
        texts.doubled("exact_texts", "exact_duplicate"),
        texts.doubled("near_texts", "near_duplicate"),
        _copies("exact_pictures", "-mirror", statuses),
        _copies("near_pictures", "-repost", statuses),
        texts.lost(),
    ]


def _leaders(corpus: Path) -> tuple[dict[str, int], dict[str, str]]:
    """By URL of each picture that came, the row of the picture that stays in its stead; and the statuses by URL."""
    rows = [
        row for path in index_parts(corpus, "pictures") for row in read_part(path, ["row", "url", "status", "copy_of"])
    ]
    came = {"ok", "no_text", EXACT, NEAR}
    leaders = {
        row["url"]: row["row"] if row["copy_of"] is None else row["copy_of"] for row in rows if row["status"] in came
    }
    return leaders, {row["url"]: row["status"] for row in rows}


def _texts_of_pictures(corpus: Path) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for path in index_parts(corpus, "pairs"):
        for pair in read_part(path, ["row", "text", "reason"]):
            if pair["reason"] is None:
                found[pair["row"]].append(pair["text"])
    return found


class _Texts:
    """The planted texts of pictures that came, beside those that the corpus has of these pictures."""

    def __init__(self, truth: list[dict[str, Any]], found: dict[int, list[str]]) -> None:
        self.truth, self.found = truth, found
        self.good = {(row["picture"], row["text"]) for row in truth if row["kind"] == "good"}

    def removed(self, kind: str, of_truth: str) -> Planted:
        """Texts that stand nowhere with their picture; those that fit it all the same do not count."""
        planted = {(row["picture"], row["text"]) for row in self.truth if row["kind"] == of_truth} - self.good
        return Planted(kind, len(planted), sum(text not in self.found.get(picture, []) for picture, text in planted))

    def doubled(self, kind: str, of_truth: str) -> Planted:
        """Copies of titles and contents beyond the first of each picture and origin."""
        planted = left = 0
        for (picture, _), texts in self._by_origin(of_truth).items():
            copies = [text for text in self.found.get(picture, []) if text in set(texts)]
            planted += len(texts) - 1
            left += max(0, len(copies) - 1)
        return Planted(kind, planted, planted - left)

    def lost(self) -> Planted:
        """Good texts none of whose variants the picture has."""
        groups: dict[tuple[int, Any], list[str]] = {}
        for row in self.truth:
            if row["kind"] == "good" and row["field"] == "query":
                groups.setdefault((row["picture"], row["text"]), [row["text"]])
            elif row["kind"] in ("good", "exact_duplicate", "near_duplicate"):
                groups.setdefault((row["picture"], row["origin"]), []).append(row["text"])
        lost = sum(not set(texts) & set(self.found.get(picture, [])) for (picture, _), texts in groups.items())
        return Planted("good_pairs_lost", len(groups), lost)

    def _by_origin(self, kind: str) -> dict[tuple[int, int], list[str]]:
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for row in self.truth:
            texts = groups[row["picture"], row["origin"]]
            wanted = row["field"] != "query" and row["kind"] in ("good", kind)
            if wanted and (kind == "exact_duplicate" or row["text"] not in texts):
                texts.append(row["text"])
        return {key: texts for key, texts in groups.items() if len(texts) > 1}


def _copies(kind: str, mark: str, statuses: dict[str, str]) -> Planted:
    """Second links of pictures both of which came: removed if one of the two is a copy of another."""
    gone, here = {EXACT, NEAR}, {"ok", "no_text", EXACT, NEAR}
    planted = [
        (status, statuses[first]) for url, status in statuses.items()
        if mark in url and (first := url.replace(mark, "")) in statuses
    ]  # fmt: skip
    both = [pair for pair in planted if set(pair) <= here]
    return Planted(kind, len(both), sum(bool(gone & set(pair)) for pair in both))
