"""Matching: does a text describe a picture? One text against some, and minimal pairs.

Minimal pairs test whether attributes are bound to the right things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ccmb.core.device import inference
from ccmb.core.errors import UsageError
from ccmb.core.text.cleaning import clean_query
from ccmb.core.validation import check_min_probability, check_text
from ccmb.inference.interface import Network
from ccmb.inference.scoring import rank_pairs
from ccmb.inference.user_images import check_any_read, read_pixels
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.processing import Picture, R2D2Processor


@dataclass(frozen=True, slots=True)
class PictureMatch:
    """What a model says of a text and one picture.

    Attributes:
        picture: as it was given.
        cosine: of the two embeddings, in [-1, 1]; None if the picture could not be read.
        score: match score in [0, 1]; None without cross encoders.
        probability: calibrated probability of a match, in [0, 1]; None likewise.
        match: whether the probability is the least one that counts, or more; None if there is none that counts.
        error: why the picture could not be read.
    """

    picture: Picture
    cosine: float | None = None
    score: float | None = None
    probability: float | None = None
    match: bool | None = None
    error: str | None = None


def match_pictures(
    model: Network,
    processor: R2D2Processor,
    text: str,
    pictures: Sequence[Picture],
    min_probability: float | None = None,
    batch: int = 64,
) -> list[PictureMatch]:
    """Match a text with each of some pictures, in their order; those that cannot be read are marked.

    The text is cleaned as the texts of a corpus are.

    Args:
        min_probability: the least calibrated probability that counts as a match.

    Raises:
        UsageError: the text is empty or not UTF-8, or there is a `min_probability` outside [0, 1] or for a model
            without cross encoders.
        CcmbError: none of the pictures can be read.
    """
    check_text(text, "to match")
    check_min_probability(min_probability)
    if min_probability is not None and not model.can_rank:
        raise UsageError("--min-probability needs cross encoders, and this model is of towers alone (PRD2)")
    found: list[PictureMatch] = []
    with inference(model):
        encoded = processor.texts([clean_query(text)])
        of_text = model.encode_text(**{name: value.to(model.device) for name, value in encoded.items()}).to("cpu")
        for start in range(0, len(pictures), batch):
            found += _match_batch(model, processor, of_text, pictures[start : start + batch], min_probability)
    check_any_read([of.error for of in found])
    return found


def _match_batch(
    model: Network,
    processor: R2D2Processor,
    of_text: TowerOutput,
    pictures: Sequence[Picture],
    min_probability: float | None,
) -> list[PictureMatch]:
    places, pixels, errors = read_pixels(processor, pictures)
    found = [PictureMatch(picture, error=errors.get(place)) for place, picture in enumerate(pictures)]
    if not places:
        return found
    images = model.encode_image(pixels.to(model.device)).to("cpu")
    for place, cosine in zip(places, (images.embed @ of_text.embed[0]).tolist(), strict=True):
        found[place] = replace(found[place], cosine=cosine)
    if model.can_rank:
        index_N = torch.arange(len(places))
        match = rank_pairs(model, images, of_text, index_N, torch.zeros_like(index_N))
        for place, score, chance in zip(places, match.score.tolist(), match.probability.tolist(), strict=True):
            verdict = None if min_probability is None else chance >= min_probability
            found[place] = replace(found[place], score=score, probability=chance, match=verdict)
    return found
