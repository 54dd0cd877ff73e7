"""Measuring retrieval: encoded galleries, and the metrics of both stages with their intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ccmb.benchmark.evaluation.feature_cache import discard_if_large, open_gallery, store_gallery
from ccmb.benchmark.evaluation.measurement import Measurement, Readable
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import STAGES, AtDepth, Cost, Retrieval
from ccmb.core.choices import Convention
from ccmb.core.errors import CcmbError
from ccmb.data.sample import Sample
from ccmb.inference.gallery import Gallery
from ccmb.inference.models.base import Model
from ccmb.inference.models.three_stages import ThreeStages, by_stage
from ccmb.inference.models.two_models import TwoModels
from ccmb.inference.raw_items import RawItems
from ccmb.inference.staged_items import StagedItems
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.tasks.common.datasets import RetrievalSet, texts_and_pairs
from ccmb.tasks.common.resampling import bounded_interval
from ccmb.tasks.retrieval.metrics import (
    RECALLS,
    bootstrap_recalls,
    hits_by_image,
    mean_recall,
    raw_recalls,
    report_of_ranks,
    resampling_unit,
)


def measure(
    model: Model, opened: RetrievalSet, readable: Readable, cache: Path, settings: Settings
) -> Measurement[Retrieval]:
    """All metrics of a model on a set; see `BenchmarkFamily`."""
    samples, unreadable = readable.samples
    started = time.monotonic()
    path = gallery_file(model, opened, cache)
    gallery, spent = encoded_gallery(model, opened, samples, path, settings.convention)
    encoded = time.monotonic()
    ranks = ranks_both_ways(model, gallery, settings.depth)
    for stage, _ in by_stage(model):
        discard_if_large(gallery_file(stage, opened, cache))
    section = retrieval_of_ranks(ranks, gallery, settings)
    ranked = time.monotonic() - encoded
    seconds = {"encode": round(encoded - started, 2), "rank": round(ranked, 2)}
    return Measurement(
        section=section,
        resampling_unit=resampling_unit(gallery).tolist(),
        images=len(gallery.images),
        texts=len(gallery.texts),
        unreadable=unreadable,
        seconds=seconds | {"total": round(time.monotonic() - started, 2)},
        depth=settings.depth if model.can_rank else None,
        ranking=model.options,
        features_kept=not spent,
        cost=_cost(model, gallery, ranks, spent, ranked),
    )


def gallery_file(model: Model, opened: RetrievalSet, cache: Path) -> Path:
    """The file of the encoded set in the feature cache; of three stages, the last one's."""
    model = by_stage(model)[-1][0]
    encoder = model.first if isinstance(model, TwoModels) and not model.states_width else model
    return cache / f"{encoder.fingerprint[:20]}-{opened.revision[:20]}.safetensors"


def encoded_gallery(
    model: Model,
    opened: RetrievalSet,
    samples: Sequence[Sample],
    path: Path,
    convention: Convention = "equal_texts",
) -> tuple[Gallery, dict[str, float]]:
    """The encoded set, its right answers decided by a convention; and the seconds that encoding images and texts took,
    none where the file was in the cache already.

    Raises:
        CcmbError: the file cannot be written, or not be read again; the message names it.
    """
    if isinstance(model, ThreeStages):
        chosen_from, more = encoded_gallery(
            model.chooser, opened, samples, gallery_file(model.chooser, opened, path.parent), convention
        )
        gallery, spent = encoded_gallery(model.last, opened, samples, path, convention)
        images, texts = (
            StagedItems(chooser, last)
            for chooser, last in ((chosen_from.images, gallery.images), (chosen_from.texts, gallery.texts))
        )
        return replace(gallery, images=images, texts=texts), {
            side: spent.get(side, 0.0) + more.get(side, 0.0) for side in spent | more
        }
    if isinstance(model, TwoModels) and not model.states_width:  # whose ranker reads texts and images themselves
        gallery, spent = encoded_gallery(model.first, opened, samples, path, convention)
        words = [text for of_image in texts_and_pairs(samples, opened.queries)[0] for text in of_image]
        images = [partial(opened.images.load, sample.image) for sample in samples]
        return replace(gallery, images=RawItems(gallery.images, images), texts=RawItems(gallery.texts, words)), spent
    texts, pairs = texts_and_pairs(samples, opened.queries)
    image_of_text = torch.tensor([row for row, of_image in enumerate(texts) for _ in of_image])
    flat = [text for of_image in texts for text in of_image]
    if (cached := open_gallery(path, len(samples), image_of_text, pairs)) is not None:
        return cached.with_convention(flat, convention), {}
    spent = store_gallery(path, model, [sample.image for sample in samples], flat, opened.images.load)
    if (stored := open_gallery(path, len(samples), image_of_text, pairs)) is None:
        raise CcmbError(f"{path}: cannot be read again after it was written; is the disk in order?")
    return stored.with_convention(flat, convention), spent


def _cost(
    model: Model, gallery: Gallery, ranks: dict[Direction, Ranks], spent: dict[str, float], ranked: float
) -> Cost:
    """What the measurement took: `spent` seconds for encoding, and `ranked` seconds for candidates and their order."""
    pairs = sum(len(each.pre_ranking) * max(each.by_depth, default=0) for each in ranks.values())
    rates = {f"{side}_per_second": round(len(getattr(gallery, side)) / max(spent[side], 1e-9), 2) for side in spent}
    return Cost(
        parameters=model.parameters,
        bytes_per_image=4 * model.embed_dim,
        pairs_per_second=round(pairs / max(ranked, 1e-9), 2) if pairs else None,
        **rates,
    )


def _curve(ranks: Ranks) -> list[AtDepth]:
    """Both stages at each depth."""
    return [
        AtDepth(
            depth=depth,
            ceiling=round(float((ranks.pre_ranking <= depth).double().mean()) * 100, 2),
            recalls={f"R@{k}": round(value, 2) for k, value in zip(RECALLS, raw_recalls(ranks_Q), strict=True)},
        )
        for depth, ranks_Q in ranks.by_depth.items()
    ]


def retrieval_of_ranks(ranks_of: dict[Direction, Ranks], gallery: Gallery, settings: Settings) -> Retrieval:
    """The metrics of known ranks, with their intervals."""
    report = report_of_ranks(ranks_of, gallery, settings.depth)
    intervals: dict[str, Any] = {direction: {} for direction in ranks_of}
    of_means, unit_N = {}, resampling_unit(gallery)
    units = len(unit_N.unique())
    for stage in STAGES:
        of_stage: dict[Direction, Tensor | None] = {name: getattr(ranks, stage) for name, ranks in ranks_of.items()}
        known = {name: ranks for name, ranks in of_stage.items() if ranks is not None}
        if not known:
            continue
        drawn = bootstrap_recalls(*hits_by_image(known, unit_N), settings.draws, settings.seed)
        mean = cast(float, mean_recall(known.values()))
        of_means[stage] = bounded_interval(mean, drawn.mean((1, 2)), units, counted=True)
        for row, (direction, ranks_Q) in enumerate(known.items()):
            intervals[direction][stage] = {
                f"R@{k}": bounded_interval(value, drawn[:, row, column], units, counted=True)
                for column, (k, value) in enumerate(zip(RECALLS, raw_recalls(ranks_Q), strict=True))
            }
    ranks = {
        direction: {
            stage: getattr(stage_ranks, stage).tolist() for stage in STAGES if getattr(stage_ranks, stage) is not None
        }
        for direction, stage_ranks in ranks_of.items()
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
        by_depth={direction: _curve(ranks) for direction, ranks in ranks_of.items() if ranks.by_depth},
    )
