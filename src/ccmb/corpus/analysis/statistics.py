"""Metrics of a finished corpus: histograms, domains, and a random sample that is the same for everyone."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccmb.core.files import read_json
from ccmb.corpus.analysis.reader import IndexedImage, index_parts, indexed_images, read_part
from ccmb.corpus.assembly.manifest import read_corpus_manifest
from ccmb.corpus.assembly.write_shards import SHARDS
from ccmb.data.images.source import ImageSource, decode

# Lower ends of the bars; the last bar holds all greater values.
CHARACTERS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
BOUNDS = tuple(round(0.05 * step, 2) for step in range(20))
SCORES = tuple(round(-0.2 + 0.1 * step, 2) for step in range(12))
SIDES = (0, 100, 150, 200, 300, 400, 600, 800, 1200, 2000)
TEXTS = (1, 2, 3, 4, 5, 6, 8, 10)
TOP = 20


class Histogram:
    """Counts between fixed ends."""

    def __init__(self, ends: Sequence[float]) -> None:
        self.ends, self.counts = ends, [0] * len(ends)

    def add(self, value: float | None) -> None:
        if value is not None:
            self.counts[max(0, bisect.bisect_right(self.ends, value) - 1)] += 1

    def values(self) -> dict[str, Any]:
        return {"from": list(self.ends), "count": self.counts}


def statistics(corpus: Path) -> dict[str, Any]:
    """All metrics as plain values.

    They describe the pairs and images that stay. Only `statuses`, `reasons` and the funnel count dropped ones too.

    Raises:
        CcmbError: the folder holds no complete corpus.
    """
    manifest = read_corpus_manifest(corpus)
    lengths: dict[str, Histogram] = defaultdict(lambda: Histogram(CHARACTERS))
    bounds, scores, sides, texts = (Histogram(ends) for ends in (BOUNDS, SCORES, SIDES, TEXTS))
    domains: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    for image in indexed_images(corpus):
        sides.add(min(image.row["width"], image.row["height"]))
        formats[image.row["format"]] += 1
        texts.add(len(image.pairs))
        for pair in image.pairs:
            lengths[pair["field"]].add(len(pair["text"]))
            bounds.add(pair["bound"])
            scores.add(pair["model_score"])
            domains[pair["domain"] or ""] += 1
    counted = {name: manifest[name] for name in ("pictures", "pairs", "shards", "pairs_by_field", "model")}
    return {
        **counted,
        "bytes": sum(entry["bytes"] for entry in manifest["files"] if entry["name"].endswith(".tar")),
        "funnel": read_json(corpus / "funnel.json")["steps"],
        "statuses": _counts(corpus, "pictures", "status"),
        "reasons": _counts(corpus, "pairs", "reason"),
        "characters": {field: lengths[field].values() for field in manifest["pairs_by_field"]},
        "bounds": bounds.values(),
        "model_scores": scores.values() if manifest["model"] else None,
        "short_sides": sides.values(),
        "texts_per_picture": texts.values(),
        "formats": dict(formats.most_common()),
        "domains": dict(sorted(domains.items(), key=lambda entry: (-entry[1], entry[0]))[:TOP]),
    }


def _counts(corpus: Path, kind: str, column: str) -> dict[str, int]:
    counts = Counter(row[column] or "ok" for path in index_parts(corpus, kind) for row in read_part(path, [column]))
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def random_images(corpus: Path, count: int) -> list[IndexedImage]:
    """The images with the smallest sample positions: a random sample that is the same each time."""
    import heapq

    return heapq.nsmallest(count, indexed_images(corpus), key=lambda image: (image.row["place"], image.row["row"]))


def image_of(corpus: Path, image: IndexedImage) -> Any:
    """The decoded image from its shard.

    Raises:
        CcmbError: the shard is missing or damaged.
    """
    tar = ImageSource.open(corpus / SHARDS / image.row["shard"])
    return decode(tar.raw(f"{image.row['sample']}.jpg"))
