"""Matching: does a text describe an image? One text against some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ccmb.core.text.cleaning import clean_query
from ccmb.core.validation import check_min_probability, check_text
from ccmb.inference.models.base import Model, check_gives_probability
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.user_images import check_any_read, encode_readable
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.towers.two_towers import TowerOutput


@dataclass(frozen=True, slots=True)
class ImageMatch:
    """The scores of a text and one image.

    Attributes:
        image: as it was given.
        cosine: of the two embeddings, in [-1, 1]; None if the image could not be read.
        score: match score in [0, 1]; None without cross encoders.
        probability: calibrated probability of a match, in [0, 1]; None likewise, and of a model that is not calibrated.
        match: whether the probability is the least one that counts, or more; None if there is none that counts.
        error: why the image could not be read.
    """

    image: ImageInput
    cosine: float | None = None
    score: float | None = None
    probability: float | None = None
    match: bool | None = None
    error: str | None = None


def match_images(
    model: Model,
    text: str,
    images: Sequence[ImageInput],
    min_probability: float | None = None,
    batch: int = 64,
) -> list[ImageMatch]:
    """Match a text with each of some images, in their order; those that cannot be read are marked.

    The text is cleaned as the texts of a corpus are.

    Args:
        min_probability: the least calibrated probability that counts as a match.

    Raises:
        UsageError: the text is empty or not UTF-8, or there is a `min_probability` outside [0, 1] or for a model
            without a second stage or calibration.
        CcmbError: none of the images can be read.
    """
    check_text(text, "to match")
    check_min_probability(min_probability)
    if min_probability is not None:
        check_gives_probability(model)
    pipeline, results = Pipeline(model, model, model.name), list[ImageMatch]()
    of_text = pipeline.encode_texts([clean_query(text)])
    for start in range(0, len(images), batch):
        results += _match_batch(pipeline, of_text, images[start : start + batch], min_probability)
    check_any_read([result.error for result in results])
    return results


def _match_batch(
    pipeline: Pipeline, of_text: TowerOutput, images: Sequence[ImageInput], min_probability: float | None
) -> list[ImageMatch]:
    read = encode_readable(pipeline.encoder, images)
    results = [ImageMatch(image, error=read.errors.get(index)) for index, image in enumerate(images)]
    if read.output is None:
        return results
    image_N = torch.arange(len(read.indices))
    cosine_N = read.output.embed @ of_text.embed[0]
    scores = pipeline.scorer.score_pairs(read.output, of_text, image_N, torch.zeros_like(image_N), cosine_N)
    for index, score in zip(read.indices, scores.rows(), strict=True):
        chance = score.probability
        match = None if min_probability is None or chance is None else chance >= min_probability
        results[index] = ImageMatch(images[index], score.cosine, score.match_score, chance, match)
    return results
