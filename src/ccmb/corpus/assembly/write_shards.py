"""The last step: images with their kept texts become samples in shards; each image and each pair gets an index row.

    shards/shard-000000.tar, shards.jsonl    samples, see `ccmb.data.shards.write`; each names its image by ImageKey
    index/pictures-000000.parquet            a row for each link: status, sizes, hashes, shard, and its key there
    index/pairs-000000.parquet               a row for each pair: click statistics, scores and drop reason

Samples are numbered in the order of the links. A shard that exists is not written again, and a killed process leaves
no incomplete shard.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ccmb.core.files import read_json, write_json
from ccmb.core.progress import progress
from ccmb.corpus.assembly.clip_scores import LOW_MODEL_SCORE
from ccmb.corpus.assembly.schema import images_schema, pairs_schema, write_rows
from ccmb.corpus.base.recipe import FIELDS
from ccmb.data.images.source import ImageSource
from ccmb.data.shards.locate import MANIFEST, Shard
from ccmb.data.shards.write import write_manifest, write_shard

SHARDS, INDEX = "shards", "index"
NO_TEXT = "no_text"
_OF_DOWNLOAD = (
    "row", "key", "url", "status", "bytes", "sha256", "format", "width", "height", "stored_bytes", "stored_sha256",
    "stored_width", "stored_height", "shape",
)  # fmt: skip


@dataclass(slots=True)
class WrittenCorpus:
    """What a corpus holds: samples, pairs by field, statuses of images and drop reasons of pairs."""

    shards: int = 0
    samples: int = 0
    pairs: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str | None] = field(default_factory=Counter)


@dataclass(slots=True)
class _Sample:
    index: int
    key: str
    texts: dict[str, list[str]]
    images: ImageSource
    image: str


class CorpusWriter:
    """Writes shards and index from the results of the earlier steps.

    Args:
        work: the folder with `downloads`, `judged` (the filtered pairs), `verdicts.parquet` (the statuses of images)
            and, if there is a model, `scores`.
        min_score: pairs that the model scores lower are dropped; None keeps all.
    """

    def __init__(self, work: Path, out: Path, samples_per_shard: int, min_score: float | None) -> None:
        self.work, self.out = work, out
        self.samples_per_shard, self.min_score = samples_per_shard, min_score
        self.written = WrittenCorpus()

    def write(self) -> WrittenCorpus:
        samples, shards = self._samples(), []
        for shard_index in itertools.count():
            shard_samples = list(itertools.islice(samples, self.samples_per_shard))
            if not shard_samples:
                break
            shards.append(self._shard(shard_index, shard_samples))
        write_manifest(self.out / SHARDS / MANIFEST, shards)
        self.written.shards = len(shards)
        return self.written

    def _shard(self, shard_index: int, samples: list[_Sample]) -> Shard:
        path, note = self.out / SHARDS / shard_name(shard_index), self.work / "shards" / f"{shard_index:06d}.json"
        if path.exists() and note.exists():
            shard = Shard(**{**read_json(note), "url": str(path)})
            if path.stat().st_size == shard.bytes:
                return shard
        shard = write_shard(path, map(_files_of, samples))
        write_json(note, asdict(shard))
        return shard

    def _samples(self) -> Iterator[_Sample]:
        """All samples in order. The index of a part is written after its last sample."""
        from pyarrow import parquet

        parts = sorted((self.work / "judged").glob("part-*.parquet"))
        statuses = parquet.read_table(self.work / "verdicts.parquet")
        with progress("shards", len(parts), "parts") as advance:
            for part_index, path in enumerate(parts):
                pairs = self._pairs_of_part(path)
                images = parquet.read_table(self.work / "downloads" / path.name, columns=list(_OF_DOWNLOAD))
                part_statuses = statuses.slice(images["row"][0].as_py(), len(images)).to_pylist()
                rows = [image | status for image, status in zip(images.to_pylist(), part_statuses, strict=True)]
                yield from self._samples_of_part(
                    rows, pairs, ImageSource.open(self.work / "downloads" / f"{path.stem}.tar")
                )
                write_rows(rows, images_schema(), self.out / INDEX / f"pictures-{part_index:06d}.parquet")
                write_rows(pairs, pairs_schema(), self.out / INDEX / f"pairs-{part_index:06d}.parquet")
                advance(1)

    def _samples_of_part(
        self, rows: list[dict[str, Any]], pairs: list[dict[str, Any]], images: ImageSource
    ) -> Iterator[_Sample]:
        """The samples of some images. It also completes the index rows of these images."""
        texts: dict[int, dict[str, list[str]]] = {}
        for pair in pairs:
            if pair["reason"] is None:
                texts.setdefault(pair["row"], {}).setdefault(pair["field"], []).append(pair["text"])
        sample_positions = {pair["row"]: pair["place"] for pair in pairs}
        for row in rows:
            row_index = row["row"]
            if row["status"] == "ok" and row_index not in texts:
                row["status"] = NO_TEXT
            sample = self.written.samples if row["status"] == "ok" else None
            row |= {"place": sample_positions.get(row_index), **location_in_shards(sample, self.samples_per_shard)}
            self.written.images[row["status"]] += 1
            if sample is not None:
                self.written.samples += 1
                yield _Sample(sample, row["key"], texts[row_index], images, f"{row_index:09d}.jpg")

    def _pairs_of_part(self, path: Path) -> list[dict[str, Any]]:
        """The filtered pairs with their model scores; pairs with too low a score are dropped."""
        from pyarrow import parquet

        pairs: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        scores_file = self.work / "scores" / path.name
        scores = parquet.read_table(scores_file)["model_score"].to_pylist() if scores_file.exists() else None
        for index, pair in enumerate(pairs):
            score = pair["model_score"] = scores[index] if scores is not None else None
            if score is not None and self.min_score is not None and score < self.min_score:
                pair["reason"] = LOW_MODEL_SCORE
            self.written.reasons[pair["reason"]] += 1
            if pair["reason"] is None:
                self.written.pairs[pair["field"]] += 1
        return pairs


def location_in_shards(sample: int | None, samples_per_shard: int) -> dict[str, Any]:
    """The shard and the key of a sample by its index, as columns of the index of images."""
    if sample is None:
        return {"shard": None, "sample": None}
    return {"shard": shard_name(sample // samples_per_shard), "sample": sample_key(sample)}


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.tar"


def sample_key(index: int) -> str:
    return f"{index:09d}"


def sample_json(key: str, texts: dict[str, list[str]]) -> bytes:
    """The JSON beside an image: its key, and its texts by field."""
    fields = {name: texts[name] for name in FIELDS if name in texts}
    return json.dumps({"image": key, **fields}, ensure_ascii=False).encode()


def _files_of(sample: _Sample) -> dict[str, Any]:
    text = sample_json(sample.key, sample.texts)
    return {"__key__": sample_key(sample.index), "jpg": sample.images.raw(sample.image), "json": text}
