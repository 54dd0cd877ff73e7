"""Measuring retrieval: galleries encoded to disk, and the figures of both stages with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.benchmark.feature_cache import open_gallery, store_gallery
from ccmb.benchmark.peer import Peer
from ccmb.benchmark.result import STAGES, Retrieval
from ccmb.benchmark.settings import Settings
from ccmb.choices import Convention
from ccmb.errors import CcmbError
from ccmb.samples import Sample
from ccmb.tasks.bootstrap import interval
from ccmb.tasks.retrieval import (
    RECALLS,
    Direction,
    Gallery,
    Ranks,
    bootstrap_recalls,
    drawn_with,
    hits_by_image,
    report_of_ranks,
)
from ccmb.tasks.sets import RetrievalSet, texts_and_pairs


def gallery_file(peer: Peer, of: RetrievalSet, cache: Path) -> Path:
    """Where the encoded set is kept."""
    return cache / f"{peer.fingerprint[:20]}-{of.revision[:20]}.safetensors"


def encoded_gallery(
    peer: Peer, of: RetrievalSet, samples: Sequence[Sample], path: Path, convention: Convention = "equal_texts"
) -> tuple[Gallery, bool]:
    """The encoded set in a file, its answers judged by a convention, and whether it was kept from before.

    Raises:
        CcmbError: the file cannot be written, or not be read again; the message names it.
    """
    texts, pairs = texts_and_pairs(samples, of.queries)
    image_of_text = torch.tensor([place for place, of_image in enumerate(texts) for _ in of_image])
    flat = [text for of_image in texts for text in of_image]
    if (found := open_gallery(path, len(samples), image_of_text, pairs)) is not None:
        return found.judged(flat, convention), True
    store_gallery(path, peer, [sample.image for sample in samples], flat, of.pictures.load)
    if (stored := open_gallery(path, len(samples), image_of_text, pairs)) is None:
        raise CcmbError(f"{path}: cannot be read again after it was written; is the disk in order?")
    return stored.judged(flat, convention), False


def retrieval_of_ranks(ranks_of: dict[Direction, Ranks], gallery: Gallery, settings: Settings) -> Retrieval:
    """The figures of known ranks, with their intervals."""
    report = report_of_ranks(ranks_of, gallery, settings.depth)
    intervals: dict[str, Any] = {direction: {} for direction in ranks_of}
    of_means = {}
    for stage in STAGES:
        of_stage: dict[Direction, Tensor | None] = {name: getattr(ranks, stage) for name, ranks in ranks_of.items()}
        known = {name: ranks for name, ranks in of_stage.items() if ranks is not None}
        if not known:
            continue
        hits = hits_by_image(known, drawn_with(gallery))
        drawn = bootstrap_recalls(*hits, settings.draws, settings.seed)
        of_means[stage] = interval(drawn.mean((1, 2)))
        for place, direction in enumerate(known):
            columns = np.moveaxis(drawn[:, place], 1, 0)
            names = [f"R@{k}" for k in RECALLS]
            intervals[direction][stage] = {name: interval(of) for name, of in zip(names, columns, strict=True)}
    ranks = {
        direction: {stage: getattr(of, stage).tolist() for stage in STAGES if getattr(of, stage) is not None}
        for direction, of in ranks_of.items()
    }
    return Retrieval(
        text_to_image=report["text_to_image"],
        image_to_text=report.get("image_to_text", {}),
        mean_recall=report["mean_recall"],
        intervals=intervals,
        mean_recall_interval=of_means,
        gain=report.get("gain_R@1"),
        ranks=ranks,
        convention=report["convention"],
        equal_texts=report["equal_texts"],
    )
