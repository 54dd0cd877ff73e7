"""Calibration: the match score as a probability, by one temperature for both match heads (Guo et al., ICML 2017).

A probability of a match holds for pairs of some kind. Here there is one match to one non-match, a prior of 1/2 as in
FGR's weighted loss, and the non-matches are likely ones, see `ccmb.tasks.matching.negatives`. Where matches are rarer,
as among the candidates of a search, fewer pairs match than the probability says; it orders and cuts them off all the
same.

Shapes: N pairs, P texts, each in one match and one non-match.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.languages import Languages, all_fields, by_language
from ccmb.data.pairs import read_pairs, readable_samples
from ccmb.data.sample import Sample
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.models.base import Model
from ccmb.inference.scoring import match_probability
from ccmb.r2d2.configuration import NOT_CALIBRATED
from ccmb.tasks.matching.calibration_error import estimate_calibration_error
from ccmb.tasks.matching.metrics import auc
from ccmb.tasks.matching.negatives import DEPTH, DrawnPairs, draw_pairs, score_pairs
from ccmb.tasks.matching.temperature import HIGHEST, LOWEST, fit_match_temperature, fit_offset, match_nll

MIN_TEXTS = 20
MAX_TEXTS = 2000  # that an evaluation scores


def calibration_report(
    model: Model, gallery: Gallery, samples: Sequence[Sample], texts: Sequence[str]
) -> dict[str, Any]:
    """Temperature and calibration error of a model as it is; see `draw_pairs`.

    The error is that of at most MOST_TEXTS texts, corrected for bias, and None where no text has a wrong image.
    """
    pairs = draw_pairs(gallery, samples, texts)
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:MAX_TEXTS]]
    temperature, error = model.match_temperature or NOT_CALIBRATED, None
    if len(pairs):
        probability_N = match_probability(score_pairs(model, gallery, pairs), temperature)
        error = round(estimate_calibration_error(probability_N, pairs.labels, pairs.right.repeat(2)).value, 4)
    return {"calibration_error": error, "match_temperature": temperature}


def calibrate(
    model: Model,
    pairs: Path,
    images: Path,
    split: str | None,
    fields: Sequence[str],
    depth: int = DEPTH,
    seed: int = 0,
    languages: Languages | None = None,
) -> dict[str, Any]:
    """Fit `match_temperature` on one split of own pairs, give it to the model, and report.

    The prior is one match to one non-match, see `draw_pairs`. What calibration is worth is measured with a temperature
    fitted on the texts of one half of the images, on those of the other; the one that is set is fitted on all.

    Args:
        languages: fields by language, in the place of `fields`; one temperature is fitted to all, and the report says
            of each language what one of its own would change.

    Returns:
        `match_temperature` and whether it is `at_bound`, the best one lying beyond; `held_out` with the calibration
        error, negative log-likelihood and AUC of the other half, `before` (at temperature 1) and `after`; how many
        `pairs`; a line for each of the `unreadable` images; and `languages`, if they are asked for.

    Raises:
        CcmbError: the model has no second stage, its scores are no numbers, or the data is faulty or too little.
    """
    if not model.can_rank:
        raise CcmbError("the model has no second stage: there is no match score to calibrate")
    image_source = ImageSource.open(images)
    samples, unreadable, tags = _readable(pairs, split, fields, languages, image_source)
    texts = [text for sample in samples for text in sample.texts]
    if len(texts) < MIN_TEXTS:
        raise _too_little(pairs, split, len(texts))
    names = [sample.image for sample in samples]
    gallery = encode_gallery(model, names, [sample.texts for sample in samples], image_source.load)
    drawn = draw_pairs(gallery, samples, texts, depth, seed)
    fitted_P = _first_half([names[index] for index in drawn.right.tolist()], seed)
    if len(drawn) < MIN_TEXTS or fitted_P.all():
        raise _too_little(pairs, split, len(drawn))
    log_odds_N2, label_N, fitted_N = score_pairs(model, gallery, drawn), drawn.labels, fitted_P.repeat(2)
    if not log_odds_N2.isfinite().all():
        raise CcmbError("the model's match scores are not finite numbers: there is nothing to calibrate")
    held_out = _held_out(model, log_odds_N2, fitted_N, drawn)
    fitted, offset = _fit(model, log_odds_N2, label_N)
    temperature = _as_fitted(fitted)
    model.calibrate(temperature, offset)
    report: dict[str, Any] = {
        "match_temperature": temperature,
        **({"offset": offset} if model.has_offset else {}),
        "at_bound": not 1.001 * LOWEST < temperature < 0.999 * HIGHEST,
        "pairs": len(label_N),
        "depth": depth,
        "held_out": held_out,
        "unreadable": unreadable,
    }
    if languages is not None:
        common = held_out["match_temperature"]
        report["languages"] = _by_language(model, log_odds_N2, fitted_N, common=common, drawn=drawn, tags=tags)
    return report


def _held_out(model: Model, log_odds_N2: Tensor, fitted_N: Tensor, drawn: DrawnPairs) -> dict[str, Any]:
    """The quality on the other half of the images, without a temperature and with that of the first half."""
    half, offset = _fit(model, log_odds_N2[fitted_N], drawn.labels[fitted_N])
    labels, images_N = drawn.labels[~fitted_N], drawn.right.repeat(2)[~fitted_N]
    return {
        "pairs": len(labels),
        "match_temperature": half,
        "before": _quality(log_odds_N2[~fitted_N], labels, images_N, 1.0),
        "after": _quality(log_odds_N2[~fitted_N] - offset, labels, images_N, half),
    }


def _readable(
    pairs: Path, split: str | None, fields: Sequence[str], languages: Languages | None, images: ImageSource
) -> tuple[list[Sample], list[str], list[str]]:
    """The samples whose images can be read, a line for each other one, and the language of each text, if any is."""
    if languages is None:
        return *readable_samples(read_pairs(pairs, split, fields), images), []
    read = by_language(read_pairs(pairs, split, all_fields(languages), lenient=True), languages)
    samples, unreadable = readable_samples(read, images)
    tags = [tag for one in samples for tag, texts in zip(languages, one.fields, strict=True) for _ in texts]
    return samples, unreadable, tags


def _by_language(
    model: Model, log_odds_N2: Tensor, fitted_N: Tensor, common: float, drawn: DrawnPairs, tags: Sequence[str]
) -> dict[str, Any]:
    """For each language, its own temperature, and the quality by the common one and by its own on the held-out half.

    Args:
        common: the temperature of all languages, of the first half of the images.
        tags: of all texts.
    """
    tag_P = [tags[index] for index in drawn.text.tolist()]
    report: dict[str, Any] = {}
    for tag in dict.fromkeys(tag_P):
        of_tag_N = torch.tensor([other == tag for other in tag_P]).repeat(2)
        first_N, held_out_N = of_tag_N & fitted_N, of_tag_N & ~fitted_N
        if not first_N.any() or not held_out_N.any():
            report[tag] = {"pairs": int(of_tag_N.sum()), "match_temperature": None}
            continue
        own, offset = _fit(model, log_odds_N2[first_N], drawn.labels[first_N])
        held_out = log_odds_N2[held_out_N], drawn.labels[held_out_N], drawn.right.repeat(2)[held_out_N]
        report[tag] = {
            "pairs": int(of_tag_N.sum()),
            "match_temperature": own,
            "common": _quality(*held_out, common),
            "own": _quality(held_out[0] - offset, *held_out[1:], own),
        }
    return report


def _fit(model: Model, log_odds_N2: Tensor, label_N: Tensor) -> tuple[float, float]:
    """The temperature, and the offset of a model whose scores need one."""
    offset = fit_offset(log_odds_N2[:, 0], label_N) if model.has_offset else 0.0
    return fit_match_temperature(log_odds_N2 - offset, label_N), offset


def _as_fitted(temperature: float) -> float:
    """A temperature other than 1, which would mean that the model is not calibrated: for 1, the next number above."""
    return math.nextafter(temperature, math.inf) if temperature == NOT_CALIBRATED else temperature


def _too_little(pairs: Path, split: str | None, count: int) -> CcmbError:
    where = f"split '{split}'" if split else "it"
    return CcmbError(
        f"{pairs}: {where} has {count} texts to set against a wrong image; calibration needs {MIN_TEXTS} or more, "
        "of two images or more"
    )


def _first_half(names: Sequence[str], seed: int) -> Tensor:
    """(P,) whether an image's place in a shuffle of all is even; images of one name stay together."""
    shuffled = sorted(set(names))
    Random(seed).shuffle(shuffled)
    chosen = set(shuffled[::2])
    return torch.tensor([name in chosen for name in names], dtype=torch.bool)


def _quality(head_log_odds_N2: Tensor, label_N: Tensor, image_N: Tensor, temperature: float) -> dict[str, float]:
    probability_N = match_probability(head_log_odds_N2.double(), temperature)
    return {
        "calibration_error": round(estimate_calibration_error(probability_N, label_N, image_N).value, 4),
        "nll": round(match_nll(head_log_odds_N2, label_N, temperature), 4),
        "auc": round(auc(probability_N, label_N), 4),
    }
