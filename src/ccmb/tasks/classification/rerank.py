"""A model as a zero-shot classifier: the first stage encodes, and the second may rank the best classes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.data.class_names import ImageClass
from ccmb.inference.models.base import Model
from ccmb.inference.raw_items import join
from ccmb.inference.stages import Reranker, SetEncoder
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.classification.classifier import Classifier, ImageClasses, class_embeddings, classify_images
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
        prompts = [fill(template, one.name) for one in classes]
        starts = range(0, len(prompts), batch)
        self.texts = join([encoder.encode_texts(prompts[start : start + batch]) for start in starts])

    def __call__(self, images: TowerOutput, index_BK: Tensor, cosine_BK: Tensor) -> Tensor:
        image_index_BK = torch.arange(len(images))[:, None].expand_as(index_BK)
        pairs = image_index_BK.flatten(), index_BK.flatten()
        return self.ranker.rank_scores(images, self.texts, *pairs, cosine_BK.flatten()).view_as(cosine_BK)


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
    return Classifier(model, classes, embed_CD, PromptRanker(model, model, classes, templates), depth)


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
