"""Recall of the filters on the simulated web, against its ground truth: false pairs, duplicates, and good pairs.

An image counts if it was downloaded: dead links and failed servers tell nothing about the filters. An image that was
dropped as a near-duplicate counts as its representative.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccmb.corpus.analysis.reader import index_parts, read_part
from ccmb.corpus.assembly.deduplicate_images import EXACT, NEAR
from ccmb.corpus.texts.normalize import clean

# The targets of a build: the minimum share that is removed, or the maximum share of good pairs that is lost.
TARGETS = {
    "wrong_pairs": 0.95, "spam": 0.95, "exact_texts": 0.99, "near_texts": 0.90, "exact_pictures": 0.99,
    "near_pictures": 0.90, "good_pairs_lost": 0.10,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilterRecall:
    """How many items of a kind the ground truth has, and how many of them the build removed.

    Attributes:
        total: items of the ground truth that were downloaded.
        removed: how many of them the build removed; for good pairs, how many it lost.
    """

    kind: str
    total: int
    removed: int

    @property
    def share(self) -> float:
        return self.removed / self.total if self.total else float("nan")

    @property
    def target(self) -> float:
        return TARGETS[self.kind]

    @property
    def reached(self) -> bool:
        return self.share <= self.target if self.kind == "good_pairs_lost" else self.share >= self.target


def recall_of_filters(web: Path, corpus: Path) -> list[FilterRecall]:
    """The recall of the filters for each kind of item.

    Args:
        web: the folder of `ccmb.corpus.simulation.logs.simulate`.
        corpus: the corpus that was built from it.
    """
    from pyarrow import parquet

    truth: list[dict[str, Any]] = parquet.read_table(web / "truth.parquet").to_pylist()
    representatives, statuses = _representatives(corpus)
    kept_texts = _texts_of_images(corpus)
    came = [
        row | {"picture": representatives[row["image_url"]]} for row in truth if row["image_url"] in representatives
    ]
    texts = _Texts([row | {"text": clean(row["text"], simplified=True)} for row in came], kept_texts)
    return [
        texts.removed("wrong_pairs", "wrong"),
        texts.removed("spam", "spam"),
        texts.doubled("exact_texts", "exact_duplicate"),
        texts.doubled("near_texts", "near_duplicate"),
        _duplicate_recall("exact_pictures", "-mirror", statuses),
        _duplicate_recall("near_pictures", "-repost", statuses),
        texts.lost(),
    ]


def _representatives(corpus: Path) -> tuple[dict[str, int], dict[str, str]]:
    """The row of the representative of each downloaded image, by URL; and the statuses, by URL."""
    rows = [
        row for path in index_parts(corpus, "pictures") for row in read_part(path, ["row", "url", "status", "copy_of"])
    ]
    came = {"ok", "no_text", EXACT, NEAR}
    representatives = {
        row["url"]: row["row"] if row["copy_of"] is None else row["copy_of"] for row in rows if row["status"] in came
    }
    return representatives, {row["url"]: row["status"] for row in rows}


def _texts_of_images(corpus: Path) -> dict[int, list[str]]:
    texts: dict[int, list[str]] = defaultdict(list)
    for path in index_parts(corpus, "pairs"):
        for pair in read_part(path, ["row", "text", "reason"]):
            if pair["reason"] is None:
                texts[pair["row"]].append(pair["text"])
    return texts


class _Texts:
    """The texts of the ground truth, and the texts that the corpus kept for the same images."""

    def __init__(self, truth: list[dict[str, Any]], kept_texts: dict[int, list[str]]) -> None:
        self.truth, self.kept_texts = truth, kept_texts
        self.good = {(row["picture"], row["text"]) for row in truth if row["kind"] == "good"}

    def removed(self, kind: str, truth_kind: str) -> FilterRecall:
        """Count the false texts that the corpus dropped. Texts that fit the image by chance do not count."""
        false_texts = {(row["picture"], row["text"]) for row in self.truth if row["kind"] == truth_kind} - self.good
        return FilterRecall(
            kind, len(false_texts), sum(text not in self.kept_texts.get(image, []) for image, text in false_texts)
        )

    def doubled(self, kind: str, truth_kind: str) -> FilterRecall:
        """Count the dropped duplicates of titles and contents: all but the first of each image and origin."""
        total = left = 0
        for (image, _), texts in self._by_origin(truth_kind).items():
            kept = [text for text in self.kept_texts.get(image, []) if text in set(texts)]
            total += len(texts) - 1
            left += max(0, len(kept) - 1)
        return FilterRecall(kind, total, total - left)

    def lost(self) -> FilterRecall:
        """Count the good texts of which the corpus kept no variant."""
        groups: dict[tuple[int, Any], list[str]] = {}
        for row in self.truth:
            if row["kind"] == "good" and row["field"] == "query":
                groups.setdefault((row["picture"], row["text"]), [row["text"]])
            elif row["kind"] in ("good", "exact_duplicate", "near_duplicate"):
                groups.setdefault((row["picture"], row["origin"]), []).append(row["text"])
        lost = sum(not set(texts) & set(self.kept_texts.get(image, [])) for (image, _), texts in groups.items())
        return FilterRecall("good_pairs_lost", len(groups), lost)

    def _by_origin(self, kind: str) -> dict[tuple[int, int], list[str]]:
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for row in self.truth:
            texts = groups[row["picture"], row["origin"]]
            counts = row["field"] != "query" and row["kind"] in ("good", kind)
            if counts and (kind == "exact_duplicate" or row["text"] not in texts):
                texts.append(row["text"])
        return {key: texts for key, texts in groups.items() if len(texts) > 1}


def _duplicate_recall(kind: str, mark: str, statuses: dict[str, str]) -> FilterRecall:
    """Count second links of images if both links were downloaded; removed means one of the two is a duplicate."""
    gone, downloaded = {EXACT, NEAR}, {"ok", "no_text", EXACT, NEAR}
    status_pairs = [
        (status, statuses[first]) for url, status in statuses.items()
        if mark in url and (first := url.replace(mark, "")) in statuses
    ]  # fmt: skip
    both = [pair for pair in status_pairs if set(pair) <= downloaded]
    return FilterRecall(kind, len(both), sum(bool(gone & set(pair)) for pair in both))
