"""Matching: does a text describe a picture? One text against some, and minimal pairs.

Minimal pairs test whether attributes are bound to the right things.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ccmb.checks import check_min_probability, check_text
from ccmb.errors import UsageError
from ccmb.r2d2.items import Items
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.network import Network
from ccmb.r2d2.processing import Picture, R2D2Processor
from ccmb.r2d2.ranking import rank_pairs, ranking_scores
from ccmb.tasks.given_pictures import check_any_read, read_pixels
from ccmb.text_cleaning import clean_query
from ccmb.training.trainer import inference


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


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """A picture's true text and a false one that differs in one swap (`swap` says of what)."""

    image_index: int
    text: str
    false_text: str
    swap: str


@dataclass(frozen=True, slots=True)
class MinimalPairScores:
    """Scores (P, 2) of the true and the false text, by which each stage orders; `ranking` is None without cross
    encoders."""

    cosine: Tensor
    ranking: Tensor | None

    @property
    def stages(self) -> dict[str, Tensor]:
        """The scores by the name of their stage."""
        second = {} if self.ranking is None else {"ranking": self.ranking}
        return {"pre_ranking": self.cosine, **second}


def score_minimal_pairs(
    model: Network, processor: R2D2Processor, images: Items, pairs: Sequence[MinimalPair], batch: int = 256
) -> MinimalPairScores:
    """Score both texts of every pair against its picture; `images` are the encoded pictures."""
    cosines, ranking = [], []
    with inference(model):
        for start in range(0, len(pairs), batch):
            chunk = pairs[start : start + batch]
            encoded = processor.texts([text for pair in chunk for text in (pair.text, pair.false_text)])
            texts = model.encode_text(**{name: value.to(model.device) for name, value in encoded.items()}).to("cpu")
            index = torch.tensor([pair.image_index for pair in chunk]).repeat_interleave(2)
            cosines.append((texts.embed * images.embed[index]).sum(1))
            if model.can_rank:
                match = rank_pairs(model, images, texts, index, torch.arange(len(texts)))
                ranking.append(ranking_scores(model, cosines[-1], match))
    return MinimalPairScores(torch.cat(cosines).view(-1, 2), torch.cat(ranking).view(-1, 2) if ranking else None)


def minimal_pair_report(pairs: Sequence[MinimalPair], scores: MinimalPairScores) -> dict[str, object]:
    """Share of pairs, in percent, whose true text scores strictly higher, by stage and by kind of swap."""
    report: dict[str, object] = {"pairs": len(pairs)}
    for stage, of_stage in scores.stages.items():
        right = (of_stage[:, 0] > of_stage[:, 1]).tolist()
        by_swap: dict[str, list[bool]] = defaultdict(list)
        for pair, is_right in zip(pairs, right, strict=True):
            by_swap["all"].append(is_right)
            by_swap[pair.swap].append(is_right)
        report[stage] = {swap: round(100 * sum(of) / len(of), 2) for swap, of in sorted(by_swap.items())}
    return report


def auc(scores_N: Tensor, labels_N: Tensor) -> float:
    """Area under the ROC curve, in [0, 1]: the chance that a match scores higher than a non-match, ties counting half.

    Args:
        scores_N: finite scores.
        labels_N: 1 or True for a match; both kinds must be there.
    """
    match, no_match = scores_N[labels_N == 1].double(), scores_N[labels_N == 0].double().sort().values
    below = torch.searchsorted(no_match, match, right=False)
    not_above = torch.searchsorted(no_match, match, right=True)
    return float((below + not_above).double().mean() / 2 / len(no_match))
