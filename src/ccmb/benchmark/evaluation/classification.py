"""Measuring zero-shot classification: the rank of each image's own class, by both stages."""

from __future__ import annotations

import time

from ccmb.benchmark.evaluation.classification_sets import ClassSet
from ccmb.benchmark.evaluation.measurement import Measurement
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import Classification
from ccmb.core.errors import CcmbError
from ccmb.inference.models.base import Model
from ccmb.inference.models.stored_features import StoredFeatures
from ccmb.tasks.classification.classifier import Classifier, class_embeddings
from ccmb.tasks.classification.evaluate import class_ranks, class_report
from ccmb.tasks.classification.rerank import class_ranker


def measure(model: Model, opened: ClassSet, settings: Settings) -> Measurement[Classification]:
    """All metrics of a model on a set; see `BenchmarkFamily`."""
    if isinstance(model, StoredFeatures):
        raise CcmbError("stored features cannot classify: it takes a model that encodes images and prompts")
    started = time.monotonic()
    depth = settings.class_depth if model.can_rank else None
    embed_CD = class_embeddings(model, opened.classes, opened.templates)
    classifier = Classifier(model, opened.classes, embed_CD)
    if depth is not None:
        ranker = class_ranker(model, opened.classes, opened.templates)
        classifier = Classifier(model, opened.classes, embed_CD, ranker, depth)
    ranks = class_ranks(classifier, opened.labelled, opened.images)
    by_stage = {"pre_ranking": ranks.first} | ({} if ranks.second is None else {"ranking": ranks.second})
    section = Classification(
        **class_report(ranks, classifier),
        class_list=opened.class_list,
        ranks={stage: of_stage.tolist() for stage, of_stage in by_stage.items()},
    )
    count = len(ranks.labels)
    prompts = len(opened.templates) * sum(len(one.names) for one in opened.classes)
    return Measurement(
        section=section, resampling_unit=list(range(count)), images=count, texts=prompts, unreadable=ranks.unreadable,
        seconds={"total": round(time.monotonic() - started, 2)}, depth=depth, prompt_set=opened.prompt_set,
    )  # fmt: skip
