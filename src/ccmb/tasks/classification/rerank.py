"""A model as a zero-shot classifier: the first stage encodes, and the second may rank the best classes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.data.class_names import ImageClass
from ccmb.inference.models.base import Model
from ccmb.inference.models.late import LateInteraction
from ccmb.inference.models.three_stages import ThreeStages
from ccmb.inference.raw_items import join
from ccmb.inference.stages import Reranker, SetEncoder
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.classification.classifier import (
    Classifier,
    ImageClasses,
    ScoreClasses,
    class_embeddings,
    classify_images,
)
from ccmb.tasks.classification.prompts import PLAIN_TEMPLATE, TEMPLATES, fill


class PromptRanker:
    """The second stage over classes; it reads each class as one prompt of its first name.

    More prompts would cost as many passes of the cross encoders each, where the first stage encodes them once for all.

    Args:
        templates: of the user's; the plain one is read if it is among them, else the first, since the model may know
            texts of that kind alone.
    """

    def __init__(
        self,
        encoder: SetEncoder,
        ranker: Reranker,
        classes: Sequence[ImageClass],
        templates: Sequence[str] = TEMPLATES,
        batch: int = 256,
    ) -> None:
        self.ranker, template = ranker, PLAIN_TEMPLATE if PLAIN_TEMPLATE in templates else templates[0]
        self.texts = _encoded(encoder, [fill(template, one.name) for one in classes], batch)

    def __call__(self, images: TowerOutput, index_BK: Tensor, cosine_BK: Tensor) -> Tensor:
        image_index_BK = torch.arange(len(images))[:, None].expand_as(index_BK)
        pairs = image_index_BK.flatten(), index_BK.flatten()
        return self.ranker.rank_scores(images, self.texts, *pairs, cosine_BK.flatten()).view_as(cosine_BK)


class TokenWiseRanker:
    """Late interaction over classes, which reads every prompt, as Wukong does (Gu et al. 2022, arXiv 2202.06767).

    With each template, the scores from an image to its K candidates become shares by a softmax; the score of a class is
    the mean of its shares. Of several names, a template takes the mean score. Where K is all classes, this is what the
    authors' code does.
    """

    def __init__(
        self,
        encoder: SetEncoder,
        ranker: LateInteraction,
        classes: Sequence[ImageClass],
        templates: Sequence[str] = TEMPLATES,
        batch: int = 256,
    ) -> None:
        self.ranker = ranker
        self.class_N = torch.tensor([row for row, one in enumerate(classes) for _ in one.names])
        self.first_C = torch.searchsorted(self.class_N, torch.arange(len(classes)))
        self.count_C = torch.bincount(self.class_N, minlength=len(classes))
        names = [name for one in classes for name in one.names]
        self.texts_of = [_encoded(encoder, [fill(way, name) for name in names], batch) for way in templates]

    def __call__(self, images: TowerOutput, index_BK: Tensor, cosine_BK: Tensor) -> Tensor:
        class_N = index_BK.flatten()
        count_N = self.count_C[class_N]
        pair_M = torch.arange(len(class_N)).repeat_interleave(count_N)
        name_M = self.first_C[class_N][pair_M] + torch.arange(len(pair_M)) - (count_N.cumsum(0) - count_N)[pair_M]
        image_M = pair_M // index_BK.shape[1]
        shares = []
        for texts in self.texts_of:
            score_M = self.ranker.both_ways(images, texts, image_M, name_M)[0]
            score_N = score_M.new_zeros(len(class_N)).index_add(0, pair_M, score_M) / count_N
            shares.append(score_N.view_as(index_BK).softmax(1))
        return torch.stack(shares).mean(0)


def _encoded(encoder: SetEncoder, prompts: Sequence[str], batch: int) -> Any:
    starts = range(0, len(prompts), batch)
    return join([encoder.encode_texts(prompts[start : start + batch]) for start in starts])


def class_ranker(model: Model, classes: Sequence[ImageClass], templates: Sequence[str] = TEMPLATES) -> ScoreClasses:
    """The second stage of a model over some classes."""
    if isinstance(model.ranker, LateInteraction) and not isinstance(model, ThreeStages):
        return TokenWiseRanker(model, model.ranker, classes, templates)
    return PromptRanker(model, model, classes, templates)


def make_classifier(
    model: Model,
    classes: Sequence[ImageClass],
    templates: Sequence[str] = TEMPLATES,
    depth: int | None = None,
) -> Classifier:
    """The classifier of a model and some classes.

    Args:
        depth: how many classes the second stage ranks; None leaves it out.

    Raises:
        UsageError: there is a depth for a model without a second stage.
        CcmbError: a template has not exactly one place for the name.
    """
    if depth is not None and not model.can_rank:
        raise UsageError(
            "--rerank-k needs a second stage, such as cross encoders, and this model has none; leave it out"
        )
    embed_CD = class_embeddings(model, classes, templates)
    if depth is None:
        return Classifier(model, classes, embed_CD)
    return Classifier(model, classes, embed_CD, class_ranker(model, classes, templates), depth)


def classify(
    model: Model,
    images: Sequence[ImageInput],
    classes: Sequence[ImageClass],
    templates: Sequence[str] = TEMPLATES,
    top: int = 5,
    depth: int | None = None,
) -> list[ImageClasses]:
    """The best classes of each of some images; see `make_classifier` and `classify_images` for the rest.

    The model reads names cleaned as the texts of a corpus are; what it finds bears the names that were given.

    Raises:
        UsageError, CcmbError: see there.
    """
    cleaned = [replace(one, names=tuple(map(clean_query, one.names))) for one in classes]
    classifier = make_classifier(model, cleaned, templates=templates, depth=depth)
    results = classify_images(classifier, images, top)
    return [
        replace(result, classes=tuple(replace(guess, name=classes[guess.index].name) for guess in result.classes))
        for result in results
    ]
