"""Measuring one model on one set, of whichever family it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ccmb.benchmark.evaluation.captioning import CaptionSet, captioning_of
from ccmb.benchmark.evaluation.classification_sets import ClassSet
from ccmb.benchmark.evaluation.feature_cache import discard_if_large
from ccmb.benchmark.evaluation.generation import GenerationSet, generation_of
from ccmb.benchmark.evaluation.retrieval import encoded_gallery, gallery_file, retrieval_of_ranks
from ccmb.benchmark.evaluation.sets import MatchingSet, MeasuredSet
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.models.base import Peer
from ccmb.benchmark.models.stored_features import FeaturesPeer
from ccmb.benchmark.results.result import Classification, Matching
from ccmb.core.errors import CcmbError
from ccmb.data.pairs import readable_samples
from ccmb.data.sample import Sample
from ccmb.inference.pair_scores import score_labelled
from ccmb.inference.stages import RankOptions
from ccmb.inference.two_stage import ranks_both_ways
from ccmb.tasks.classification.classifier import Classifier, class_embeddings
from ccmb.tasks.classification.evaluate import class_ranks, class_report
from ccmb.tasks.classification.rerank import PromptRanker
from ccmb.tasks.common.datasets import RetrievalSet
from ccmb.tasks.matching.metrics import matching_report
from ccmb.tasks.retrieval.metrics import drawn_with


class Readable:
    """The samples of a set whose pictures can be read; these are tried only when a measurement needs them, and once."""

    def __init__(self, of: MeasuredSet) -> None:
        self._of = of

    @cached_property
    def samples(self) -> tuple[list[Sample], list[str]]:
        """They, and a line for each picture that cannot be read."""
        assert not isinstance(self._of, ClassSet), "pictures of classes are tried one by one as they are classified"
        return readable_samples(self._of.samples, self._of.pictures)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a result file says beyond model, set and settings; `sections` is one family's, by its name."""

    sections: dict[str, Any]
    drawn_with: list[int]
    images: int
    texts: int
    unreadable: list[str]
    seconds: dict[str, float]
    depth: int | None = None
    ranking: RankOptions | None = None
    prompt_set: str | None = None
    features_kept: bool = False


def measure(peer: Peer, of: MeasuredSet, readable: Readable, cache: Path, settings: Settings) -> Measurement:
    """All figures of a model on a set.

    Raises:
        CcmbError: the model cannot do what the set asks, or none of the pictures can be read.
    """
    if isinstance(of, MatchingSet):
        return _matching(peer, of, readable, settings)
    if isinstance(of, ClassSet):
        return _classification(peer, of, settings)
    if isinstance(of, CaptionSet):
        return _captioning(peer, of, readable, settings)
    if isinstance(of, GenerationSet):
        return _generation(peer, of, readable, settings)
    return _retrieval(peer, of, readable, cache, settings)


def _retrieval(peer: Peer, of: RetrievalSet, readable: Readable, cache: Path, settings: Settings) -> Measurement:
    samples, unreadable = readable.samples
    started = time.monotonic()
    path = gallery_file(peer, of, cache)
    gallery, kept = encoded_gallery(peer, of, samples, path, settings.convention)
    encoded = time.monotonic()
    ranks = ranks_both_ways(peer, gallery, settings.depth)
    discard_if_large(path)
    section = retrieval_of_ranks(ranks, gallery, settings)
    seconds = {"encode": round(encoded - started, 2), "rank": round(time.monotonic() - encoded, 2)}
    return Measurement(
        {"retrieval": section}, drawn_with(gallery).tolist(), len(gallery.images), len(gallery.texts), unreadable,
        seconds | {"total": round(time.monotonic() - started, 2)}, settings.depth if peer.can_rank else None,
        ranking=peer.options, features_kept=kept,
    )  # fmt: skip


def _matching(peer: Peer, of: MatchingSet, readable: Readable, settings: Settings) -> Measurement:
    samples, unreadable = readable.samples
    started = time.monotonic()
    scores = score_labelled(peer, peer, samples, of.pictures.load)
    report = matching_report(scores, peer.match_temperature, draws=settings.draws, seed=settings.seed)
    by_stage = {"pre_ranking": scores.cosine} | ({"ranking": scores.score} if peer.can_rank else {})
    section = Matching(
        **report,
        labels=scores.label.tolist(),
        scores={stage: [round(score, 7) for score in of_stage.tolist()] for stage, of_stage in by_stage.items()},
    )
    pictures, texts = report["pictures"], len({sample.texts[0] for sample in samples})
    seconds = {"total": round(time.monotonic() - started, 2)}
    return Measurement({"matching": section}, scores.picture.tolist(), pictures, texts, unreadable, seconds)


def _captioning(peer: Peer, of: CaptionSet, readable: Readable, settings: Settings) -> Measurement:
    samples, unreadable = readable.samples
    started = time.monotonic()
    section = captioning_of(peer, of, samples, settings)
    count, seconds = section.pictures, {"total": round(time.monotonic() - started, 2)}
    return Measurement({"captioning": section}, list(range(count)), count, section.references, unreadable, seconds)


def _generation(peer: Peer, of: GenerationSet, readable: Readable, settings: Settings) -> Measurement:
    samples, unreadable = readable.samples
    started = time.monotonic()
    section = generation_of(peer, of, samples, settings)
    count, seconds = section.pictures, {"total": round(time.monotonic() - started, 2)}
    return Measurement({"generation": section}, list(range(count)), count, count, unreadable, seconds)


def _classification(peer: Peer, of: ClassSet, settings: Settings) -> Measurement:
    if isinstance(peer, FeaturesPeer):
        raise CcmbError("stored features cannot classify: it takes a model that encodes pictures and prompts")
    started = time.monotonic()
    depth = settings.class_depth if peer.can_rank else None
    embed_CD = class_embeddings(peer, of.classes, of.templates)
    classifier = Classifier(peer, of.classes, embed_CD)
    if depth is not None:
        ranker = PromptRanker(peer, peer, of.classes, of.templates)
        classifier = Classifier(peer, of.classes, embed_CD, ranker, depth)
    ranks = class_ranks(classifier, of.labelled, of.pictures)
    by_stage = {"pre_ranking": ranks.first} | ({} if ranks.second is None else {"ranking": ranks.second})
    section = Classification(
        **class_report(ranks, classifier),
        class_list=of.class_list,
        ranks={stage: of_stage.tolist() for stage, of_stage in by_stage.items()},
    )
    count = len(ranks.labels)
    prompts = len(of.templates) * sum(len(one.names) for one in of.classes)
    return Measurement(
        {"classification": section}, torch.arange(count).tolist(), count, prompts, ranks.unreadable,
        {"total": round(time.monotonic() - started, 2)}, depth, prompt_set=of.prompt_set,
    )  # fmt: skip
