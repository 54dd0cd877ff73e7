"""A model's ranked lists on a set: TREC runs of both stages, qrels, and MUGE's submission file.

MUGE's form (tianchi.aliyun.com/dataset/107332) is that of its queries, `query_id`, `query_text` and `item_ids`, with
the ten best images as `item_ids`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import images_beside, read_pairs
from ccmb.datasets import CARDS, open_dataset
from ccmb.inference.gallery import encode_gallery_with
from ccmb.inference.models.base import Model
from ccmb.inference.two_stage import ordered_items
from ccmb.tasks.common.datasets import name_and_path
from ccmb.tasks.rankings.files import write_qrels, write_run

SUBMITTED = 10  # images of a query in MUGE's submission


@dataclass(frozen=True, slots=True)
class Asked:
    """Texts to rank the images of a set for.

    Attributes:
        name: how files are called.
        texts: by the id of each query.
        right: names of right images by query; empty where the truth is hidden.
    """

    name: str
    texts: dict[str, str]
    images: list[str]
    source: ImageSource
    right: dict[str, tuple[str, ...]]


def open_asked(spec: str, split: str, fields: Sequence[str], images: Path | None) -> Asked:
    """Open NAME=FOLDER of a published set, also where its truth is hidden, or NAME=FILE of own pairs.

    Raises:
        UsageError, CcmbError: see `ccmb.tasks.common.datasets.open_set`.
    """
    name, path = name_and_path(spec, "--data")
    if path.is_dir() and name.lower() in CARDS:
        dataset = open_dataset(name, path, split, images)
        texts = {query.id: query.text for query in dataset.queries}
        right = {query.id: query.images for query in dataset.queries if query.images}
        return Asked(f"{name}.{split}", texts, list(dataset.gallery), dataset.images, right)
    samples = read_pairs(path, split, fields)
    if not samples:
        raise CcmbError(f"{path}: no images in split {split}")
    numbered = [
        (f"{sample.image}#{row}", text, sample.image) for sample in samples for row, text in enumerate(sample.texts)
    ]
    return Asked(
        f"{name}.{split}",
        {query: text for query, text, _ in numbered},
        [sample.image for sample in samples],
        ImageSource.open(images or images_beside(path)),
        {query: (image,) for query, _, image in numbered},
    )


def rank_set(model: Model, asked: Asked, out: Path, depth: int, count: int) -> list[Path]:
    """Write NAME.qrels where the truth is known, NAME.pre_ranking.trec, and NAME.ranking.trec of a second stage.

    Args:
        depth: candidates that the second stage ranks.
        count: images of a query in a run.
    """
    texts = list(asked.texts.values())  # which belong to no image here: all stand at the first
    gallery = encode_gallery_with(model, asked.images, [texts, *([] for _ in asked.images[1:])], asked.source.load)
    written = []
    if asked.right:
        written.append(out / f"{asked.name}.qrels")
        write_qrels(written[-1], {query: dict.fromkeys(images, 1) for query, images in asked.right.items()})
    stages = {"pre_ranking": None, "ranking": depth} if model.can_rank else {"pre_ranking": None}
    for stage, ranked in stages.items():
        item_QK, score_QK = ordered_items(model, gallery, "text_to_image", ranked, count)
        written.append(out / f"{asked.name}.{stage}.trec")
        write_run(written[-1], _lists(asked, item_QK, score_QK), tag=model.name.replace(" ", ""))
    submission = out / f"{asked.name}.submission.jsonl"
    write_submission(submission, asked, item_QK[:, :SUBMITTED])
    return [*written, submission]


def write_submission(path: Path, asked: Asked, item_QK: Tensor) -> None:
    """MUGE's file: the best images of each query, best first; ids that are whole numbers are written as such."""
    with atomic_write(path) as file:
        for (query, text), items in zip(asked.texts.items(), item_QK.tolist(), strict=True):
            ids = [_as_number(Path(asked.images[item]).stem) for item in items]
            line = {"query_id": _as_number(query), "query_text": text, "item_ids": ids}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _as_number(name: str) -> int | str:
    return int(name) if name.isascii() and name.isdigit() and str(int(name)) == name else name


def _lists(asked: Asked, item_QK: Tensor, score_QK: Tensor) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    for query, items, scores in zip(asked.texts, item_QK.tolist(), score_QK.tolist(), strict=True):
        yield query, [(asked.images[item], score) for item, score in zip(items, scores, strict=True)]
