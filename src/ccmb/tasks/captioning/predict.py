"""Captioning: what does an image show? A decoder writes candidates, and R2D2's match score says which fits best.

The decoder orders captions by how likely their words are, which favours what is said of many images; both stages of
R2D2 judge whether image and text fit. Candidates are ordered by both together, log-probability + weight * score of
the second stage, which is our choice: R2D2 alone, which has never seen a slip of the decoder's, may prefer one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ccmb.core.choices import RankingRule
from ccmb.core.device import inference
from ccmb.core.errors import UsageError
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.stages import RankOptions
from ccmb.inference.user_images import check_any_read, prepare_readable
from ccmb.r2d2.decoders.caption_decoder import CaptionState
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.processing import ImageInput, R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.captioning.decoding import Decoding, Vocabulary, decode_captions

# How much a point of the second stage counts beside one of log-probability, by the model's ranking rule: of the weights
# tried, those with the most attributes right on the synthetic validation scenes.
MATCH_WEIGHTS: dict[RankingRule, float] = {"log_odds": 0.5, "sum": 5.0}
# Tokenizers of words put spaces between all tokens; Chinese has none.
SPACE = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One caption of an image.

    Attributes:
        log_probability: of all its tokens and its end, by the decoder.
        cosine: of image and caption, in [-1, 1]; None unless candidates are re-ranked.
        match_score: in [0, 1]; None likewise, and without match heads.
        score: what re-ranking orders by.
    """

    text: str
    log_probability: float
    cosine: float | None = None
    match_score: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """The captions that a model writes for one image.

    Attributes:
        image: as it was given.
        text: the best candidate's; None if the image could not be read.
        candidates: the best first, by decoder and R2D2 together if they are re-ranked, else by the decoding.
        decoded: the candidate that the decoding put first.
        error: why the image could not be read.
    """

    image: ImageInput
    text: str | None = None
    candidates: tuple[Candidate, ...] = ()
    decoded: Candidate | None = None
    error: str | None = None


def caption_images(
    model: R2D2Captioner,
    processor: R2D2Processor,
    images: Sequence[ImageInput],
    options: Decoding | None = None,
    rerank: bool = True,
    batch: int = 32,
    first: int = 0,
    match_weight: float | None = None,
    ranking_rule: RankingRule | None = None,
) -> list[ImageCaption]:
    """Write about each of some images, in their order; those that cannot be read are marked.

    Args:
        rerank: let both stages of R2D2 have their say about the candidates.
        first: number of the first image, by which sampling tells images apart.
        match_weight, ranking_rule: see `rank_candidates`.

    Raises:
        UsageError: longer captions are asked for than the model has positions for.
        CcmbError: none of the images can be read.
    """
    options = options or decoding_for(model)
    check_length(options, model)
    results: list[ImageCaption] = []
    with inference(model):
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            results += _caption_batch(
                model,
                processor,
                chunk,
                options=options,
                rerank=rerank,
                first=first + start,
                match_weight=match_weight,
                ranking_rule=ranking_rule,
            )
    check_any_read([result.error for result in results])
    return results


def longest_caption(model: R2D2Captioner) -> int:
    """Most tokens of a caption, its start and its end not counted."""
    return int(model.config.max_text_tokens) - 2


def decoding_for(model: R2D2Captioner, max_length: int | None = None, **values: Any) -> Decoding:
    """Decoding options that fit a model; by default captions may be as long as both the default and the model allow.

    Raises:
        UsageError: a value is out of its range, or `max_length` beyond the model's positions.
    """
    longest = longest_caption(model)
    options = Decoding(max_length=min(Decoding.max_length, longest) if max_length is None else max_length, **values)
    check_length(options, model)
    return options


def check_length(options: Decoding, model: R2D2Captioner) -> None:
    """Refuse longer captions than a model has positions for.

    Raises:
        UsageError: they are.
    """
    if options.max_length > (longest := longest_caption(model)):
        raise UsageError(f"max_length is {options.max_length}; this model writes captions of up to {longest} tokens")


def _caption_batch(
    model: R2D2Captioner,
    processor: R2D2Processor,
    images: Sequence[ImageInput],
    options: Decoding,
    rerank: bool,
    first: int,
    match_weight: float | None,
    ranking_rule: RankingRule | None,
) -> list[ImageCaption]:
    pixels, errors = prepare_readable(lambda image: processor.images([image])[0], images)
    results = [ImageCaption(image, error=errors.get(index)) for index, image in enumerate(images)]
    if not pixels:
        return results
    encoded = model.encode_image(torch.stack(list(pixels.values())).to(model.device))
    written = write_captions(model, processor, encoded, options, first)
    ordered: list[list[Candidate]] = written
    if rerank:
        ordered = rank_candidates(
            model, processor, encoded.to("cpu"), written=written, match_weight=match_weight, ranking_rule=ranking_rule
        )
    for index, before, after in zip(pixels, written, ordered, strict=True):
        decoded = next(candidate for candidate in after if candidate.text == before[0].text)
        results[index] = replace(results[index], text=after[0].text, candidates=tuple(after), decoded=decoded)
    return results


def write_captions(
    model: R2D2Captioner, processor: R2D2Processor, images: TowerOutput, options: Decoding, first: int = 0
) -> list[list[Candidate]]:
    """The candidates of encoded images, the best by the decoding first; each text once.

    Args:
        first: number of the first image, by which sampling tells images apart.
    """
    shape = model.shape
    state = CaptionState(model.decoder, model.decoder.see(images.states))
    vocabulary = Vocabulary(shape.start_id, shape.end_id, shape.never_ids)
    results = []
    for decoded in decode_captions(state, len(images), vocabulary, options, first):
        texts: dict[str, Candidate] = {}
        for caption in decoded:
            text = SPACE.sub("", str(processor.tokenizer.decode(list(caption.tokens), skip_special_tokens=True)))
            text = text.removeprefix(SPACE.sub("", processor.text_prefix.strip())).strip()
            texts.setdefault(text, Candidate(text, round(caption.log_probability, 4)))
        results.append(list(texts.values()))
    return results


def rank_candidates(
    model: R2D2Captioner,
    processor: R2D2Processor,
    images: TowerOutput,
    written: Sequence[Sequence[Candidate]],
    match_weight: float | None = None,
    ranking_rule: RankingRule | None = None,
) -> list[list[Candidate]]:
    """The candidates with cosine and match score, ordered by log-probability + `match_weight` * score of the second
    stage, or of the first where there is no other.

    Args:
        match_weight: by default that of the ranking rule, see MATCH_WEIGHTS.
        ranking_rule: of the second stage; by default the model's own.
    """
    rule = ranking_rule or model.config.ranking_rule
    weight = MATCH_WEIGHTS[rule] if match_weight is None else match_weight
    flat = [candidate for candidates in written for candidate in candidates]
    pipeline = Pipeline.from_model(model, processor, RankOptions(ranking_rule=rule))
    texts = pipeline.encode_texts([candidate.text for candidate in flat], batch_size=len(flat))
    image_index_N = torch.tensor([index for index, candidates in enumerate(written) for _ in candidates])
    scores = pipeline.scorer.score_pairs(images, texts, image_index_N, torch.arange(len(flat))).rows()
    scored = [
        replace(
            candidate,
            cosine=pair.cosine,
            match_score=pair.match_score,
            score=candidate.log_probability + weight * pair.score,
        )
        for candidate, pair in zip(flat, scores, strict=True)
    ]
    ends = torch.tensor([0, *map(len, written)]).cumsum(0).tolist()
    return [sorted(scored[start:end], key=lambda candidate: -(candidate.score or 0.0)) for start, end in pairwise(ends)]
