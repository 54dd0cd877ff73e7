"""`ccmb evaluate`: both stages of retrieval, and minimal pairs where the data has them, as one report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ccmb.core.choices import Convention
from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import open_pairs, readable_samples
from ccmb.data.sample import Sample
from ccmb.data.shards.shard_set import is_shards, open_shard_set
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.models.base import Model
from ccmb.inference.stages import PairScorer, RankOptions
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.tasks.matching.calibrate import calibration_report
from ccmb.tasks.matching.metrics import auc
from ccmb.tasks.matching.minimal_pairs import MinimalPair, MinimalPairScores, minimal_pair_report, score_minimal_pairs
from ccmb.tasks.retrieval.metrics import report_of_ranks


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report and what it was made from, for those who want to show examples."""

    report: dict[str, Any]
    samples: list[Sample]
    texts: list[str]
    gallery: Gallery
    ranks: dict[Direction, Ranks]
    minimal_pairs: list[MinimalPair]
    minimal_pair_scores: MinimalPairScores | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images with texts, of a file of pairs or of shards.

    Attributes:
        path: of the file or the shards, for messages.
        faults: a line for each sample of shards that was left out.
        in_other_splits: names of images that other splits have too.
    """

    path: Path
    samples: list[Sample]
    images: ImageSource
    faults: list[str]
    in_other_splits: Sequence[str]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions for pairs: the ranks of right answers, and what they were made from.

    Attributes:
        unreadable: a line for each image that was left out.
        options: how the second stage was computed; None without one.
        minimal_pairs: those of the data, which are yet to be scored.
    """

    samples: list[Sample]
    unreadable: list[str]
    gallery: Gallery
    ranks: dict[Direction, Ranks]
    options: RankOptions | None
    minimal_pairs: list[MinimalPair]


def open_data(pairs: Path, images: Path, split: str | None, fields: Sequence[str]) -> Pairs:
    """Open one split of own pairs, or all samples of shards, which have no splits.

    Raises:
        CcmbError: faulty data.
    """
    if is_shards(pairs):
        samples, image_source, faults = open_shard_set([str(pairs)], fields)
        return Pairs(pairs, samples, image_source, faults, ())
    read = open_pairs(pairs, split, fields)
    return Pairs(pairs, read.samples, ImageSource.open(images), [], read.in_other_splits)


def predict(
    model: Model,
    data: Pairs,
    depth: int = 128,
    texts_per_image: int | None = None,
    convention: Convention = "equal_texts",
) -> Predictions:
    """Rank the images that can be read for each text, and the other way; see `evaluate`."""
    samples, unreadable = readable_samples(data.samples, data.images)
    minimal_pairs = _minimal_pairs(samples, data.path)
    texts = [sample.texts[:texts_per_image] for sample in samples]
    names = [sample.image for sample in samples]
    gallery = encode_gallery(model, names, texts, data.images.load, convention=convention)
    ranks = ranks_both_ways(model, gallery, depth)
    return Predictions(
        samples=samples,
        unreadable=[*data.faults, *unreadable],
        gallery=gallery,
        ranks=ranks,
        options=model.options,
        minimal_pairs=minimal_pairs,
    )


def evaluate(
    model: Model,
    data: Pairs,
    depth: int = 128,
    texts_per_image: int | None = None,
    convention: Convention = "equal_texts",
) -> Evaluation:
    """Rank by the model's options, and measure both stages; all but ranks is exact, whatever the options.

    Args:
        depth: candidates of the first stage that the second one ranks (the paper: 128, or 64 for ICR and IQR).
        texts_per_image: use only the first so many texts of each image.
        convention: which answers are right and how ties count, see `ccmb.inference.answers`.

    Raises:
        CcmbError: no readable image. Images that cannot be read are listed in the report.
    """
    started = time.monotonic()
    predicted = predict(
        model,
        data,
        depth=depth,
        texts_per_image=texts_per_image,
        convention=convention,
    )
    samples, gallery, ranks = predicted.samples, predicted.gallery, predicted.ranks
    report: dict[str, Any] = {"retrieval": report_of_ranks(ranks, gallery, depth)}
    if predicted.options is not None:
        report["retrieval"] |= {"precision": predicted.options.precision, "cascade": predicted.options.cascade}
        report["ranking_rule"] = model.ranking_rule
    minimal_pairs, scores = predicted.minimal_pairs, None
    if minimal_pairs:
        scores = score_minimal_pairs(model, gallery.images, minimal_pairs)
        report["minimal_pairs"] = minimal_pair_report(minimal_pairs, scores)
    texts = [text for sample in samples for text in sample.texts[:texts_per_image]]
    if model.can_rank and len(gallery.images) > 1:
        calibration = calibration_report(model, gallery, samples, texts)
        report["matching"] = {"auc": _random_pair_auc(model, gallery), **calibration}
    report["in_other_splits"] = len(data.in_other_splits)
    report["unreadable"] = predicted.unreadable
    report["seconds"] = {"evaluate": round(time.monotonic() - started, 1)}
    return Evaluation(
        report=report,
        samples=samples,
        texts=texts,
        gallery=gallery,
        ranks=ranks,
        minimal_pairs=minimal_pairs,
        minimal_pair_scores=scores,
    )


def _minimal_pairs(samples: list[Sample], where: Path) -> list[MinimalPair]:
    pairs = []
    for index, sample in enumerate(samples):
        lines: Any = (sample.extra or {}).get("minimal_pairs", [])
        for line in lines if isinstance(lines, list) else [lines]:
            texts = [line.get(key) for key in ("text", "false_text", "swap")] if isinstance(line, dict) else [None]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise CcmbError(
                    f'{where}: "minimal_pairs" of {sample.image} must be a list of objects with "text", "false_text" '
                    'and "swap"'
                )
            pairs.append(MinimalPair(index, *texts))
    return pairs


def _random_pair_auc(scorer: PairScorer, gallery: Gallery, pairs: int = 2000) -> float | None:
    """AUC of the match score on true pairs against the same texts with random wrong images.

    Of these, images that have an equal text are left out; None where none is left.
    """
    generator = torch.Generator().manual_seed(0)
    count = min(pairs, len(gallery.texts))
    text = torch.randperm(len(gallery.texts), generator=generator)[:count]
    right = gallery.image_of_text[text]
    step = torch.randint(1, len(gallery.images), (count,), generator=generator)
    wrong = (right + step) % len(gallery.images)
    if gallery.equal is not None:
        chunks = zip(text.split(256), wrong.split(256), strict=True)
        shown = torch.cat([gallery.relevant(True, some).gather(1, other[:, None])[:, 0] for some, other in chunks])
        texts, wrong = text[~shown], wrong[~shown]
    else:
        texts = text
    if not len(wrong):
        return None
    pairs_N = torch.cat([right, wrong]), torch.cat([text, texts])
    match = scorer.score_pairs(gallery.images, gallery.texts, *pairs_N).match
    assert match is not None, "asked of models with a second stage alone"
    return round(auc(match.score, torch.arange(count + len(wrong)) < count), 4)
