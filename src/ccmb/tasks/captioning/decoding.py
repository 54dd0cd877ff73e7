"""Decoding of captions from next-token probabilities: greedy, beam search and sampling, for many images at once.

A caption's log-probability is that of its words and its end, after the special tokens that no caption holds are taken
out of the vocabulary. Limits of length and blocked n-grams restrict the search and leave the probabilities alone.

Shapes: V images, R captions of each, N = V * R captions in progress, L tokens so far, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ccmb.core.choices import Decode, one_of
from ccmb.core.errors import UsageError
from ccmb.core.floats import at_least_float32


class NextToken(Protocol):
    """Captions in progress, those of one image side by side; see `ccmb.r2d2.generative.captioner.CaptionState`."""

    def advance(self, tokens_N: Tensor) -> Tensor:
        """Add a token to each caption, and give the logits (N, W) of the next."""

    def choose(self, index_M: Tensor) -> None:
        """Go on with these captions alone."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that start and end a caption, and those that it never holds."""

    start: int
    end: int
    never: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded.

    Attributes:
        decode: beam search; greedy, the likeliest next token each time; or sample, drawn by chance.
        beams: captions that beam search follows.
        candidates: captions of each image, the best first; of greedy there is but one.
        max_length, min_length: of a caption in tokens, its end not counted.
        length_penalty: beam search orders by log-probability / (tokens and end) ** this; 0 by log-probability alone.
        block_ngrams: no run of so many tokens comes twice in a caption; 0 blocks nothing.
        temperature: sampling divides the logits by it.
        top_k: sampling draws from the so many likeliest tokens; 0 from all.
        top_p: and of these from the likeliest that together have this probability.
        seed: of the chance; equal seeds sample equal captions of an image, whichever others are with it.

    Raises:
        UsageError: a value is out of its range; the message names it.
    """

    decode: Decode = "beam"
    beams: int = 5
    candidates: int = 1
    max_length: int = 40
    min_length: int = 1
    length_penalty: float = 1.0
    block_ngrams: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        min_values = {"beams": 1, "candidates": 1, "max_length": 1, "min_length": 0, "block_ngrams": 0, "top_k": 0}
        for name, low in min_values.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; give {low} or more")
        one_of("decode", self.decode, Decode)
        if self.min_length > self.max_length:
            raise UsageError(f"min_length is {self.min_length}, above max_length, which is {self.max_length}")
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; give a number above 0")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; give a number above 0 and at most 1")
        if self.decode == "beam" and self.candidates > self.beams:
            raise UsageError(f"candidates is {self.candidates}, but beam search follows {self.beams} beams; give more")
        if self.decode == "greedy" and self.candidates > 1:
            raise UsageError("greedy decoding has one candidate; for more use beam or sample")


@dataclass(frozen=True, slots=True)
class Decoded:
    """One caption.

    Attributes:
        tokens: without start and end.
        log_probability: of its tokens and its end.
        score: what the decoding orders by.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


def decode_captions(
    state: NextToken, images: int, vocabulary: Vocabulary, options: Decoding, first: int = 0
) -> list[list[Decoded]]:
    """The candidates of each of so many images, the best first, no caption twice.

    Args:
        state: at the start, with one caption of each image.
        first: number of the first image, by which sampling tells images apart.
    """
    with torch.inference_mode():
        if options.decode == "beam":
            return _beam_search(state, images, vocabulary, options)
        return _one_by_one(state, images, vocabulary, options, first)


def _one_by_one(
    state: NextToken, images: int, vocabulary: Vocabulary, options: Decoding, first: int
) -> list[list[Decoded]]:
    """Greedy decoding and sampling: every caption goes its own way."""
    log_NW = _begin(state, images, vocabulary)
    rows, device = options.candidates, log_NW.device
    chance_NL = None
    if options.decode == "sample":
        chance_NL = torch.cat([_chance(options, first + image) for image in range(images)]).to(device)
    if rows > 1:
        image_N = torch.arange(images, device=device).repeat_interleave(rows)
        state.choose(image_N)
        log_NW = log_NW[image_N]
    count = images * rows
    tokens_NL = torch.empty(count, 0, dtype=torch.long, device=device)
    summed_N, open_N = torch.zeros(count, device=device), torch.ones(count, dtype=torch.bool, device=device)
    every_N = torch.arange(count, device=device)
    for length in range(options.max_length + 1):
        allowed_NW = _allowed(log_NW, tokens_NL, vocabulary, options)
        if chance_NL is None:
            next_N = allowed_NW.argmax(1)
        else:
            next_N = _draw(allowed_NW, chance_NL[:, length], options)
        next_N = next_N.where(open_N, vocabulary.end)
        summed_N = summed_N + log_NW[every_N, next_N].where(open_N, 0.0)
        tokens_NL = torch.cat([tokens_NL, next_N[:, None]], 1)
        open_N = open_N & (next_N != vocabulary.end)
        if not open_N.any():
            break
        log_NW = _log_probabilities(state.advance(next_N), vocabulary)
    return _gathered(tokens_NL.tolist(), summed_N.tolist(), images, vocabulary)


def _gathered(
    tokens: Sequence[Sequence[int]], summed: Sequence[float], images: int, vocabulary: Vocabulary
) -> list[list[Decoded]]:
    """The captions of each image, the likeliest first, each once."""
    rows = len(tokens) // images
    results = list[list[Decoded]]()
    for image in range(images):
        of_image: dict[tuple[int, ...], Decoded] = {}
        for row in range(image * rows, (image + 1) * rows):
            words = tuple(tokens[row][: tokens[row].index(vocabulary.end)])
            of_image.setdefault(words, Decoded(words, summed[row], summed[row]))
        results.append(sorted(of_image.values(), key=lambda caption: -caption.score))
    return results


def _beam_search(state: NextToken, images: int, vocabulary: Vocabulary, options: Decoding) -> list[list[Decoded]]:
    """Follow the likeliest beginnings. A caption that ends joins the finished ones, of which each image keeps as many
    as it has beams; the search is over when no beginning can still become better than the worst of these."""
    beams = options.beams
    log_NW = _begin(state, images, vocabulary)
    device, words = log_NW.device, log_NW.shape[1]
    base_V1 = beams * torch.arange(images, device=device)[:, None]
    image_N = torch.arange(images, device=device).repeat_interleave(beams)
    state.choose(image_N)
    log_NW = log_NW[image_N]
    tokens_NL = torch.empty(images * beams, 0, dtype=torch.long, device=device)
    # All beams begin alike: of each image only the first counts.
    summed_VR = torch.full((images, beams), -torch.inf, device=device)
    summed_VR[:, 0] = 0.0
    finished: list[list[Decoded]] = [[] for _ in range(images)]
    for length in range(options.max_length + 1):
        allowed_NW = _allowed(log_NW, tokens_NL, vocabulary, options)
        total_VRW = summed_VR[..., None] + allowed_NW.view(images, beams, words)
        _finish(finished, total_VRW[..., vocabulary.end], tokens_NL, length, options)
        total_VRW[..., vocabulary.end] = -torch.inf
        flat_VX = total_VRW.flatten(1)
        kept = min(beams, flat_VX.shape[1])
        summed_VR, index_VR = flat_VX.topk(kept, dim=1)
        if kept < beams:  # fewer words than beams
            missing = beams - kept
            summed_VR = torch.nn.functional.pad(summed_VR, (0, missing), value=-torch.inf)
            index_VR = torch.nn.functional.pad(index_VR, (0, missing))
        if length == options.max_length or _all_over(finished, summed_VR[:, 0].tolist(), length, options):
            break
        source_N, next_N = (base_V1 + index_VR // words).flatten(), (index_VR % words).flatten()
        tokens_NL = torch.cat([tokens_NL[source_N], next_N[:, None]], 1)
        state.choose(source_N)
        log_NW = _log_probabilities(state.advance(next_N), vocabulary)
    return [captions[: options.candidates] for captions in finished]


def _finish(finished: list[list[Decoded]], ended_VR: Tensor, tokens_NL: Tensor, length: int, options: Decoding) -> None:
    """Add the captions that end here, and keep the best of each image."""
    scores = ended_VR.tolist()
    if all(score == -torch.inf for row in scores for score in row):
        return
    tokens, beams = tokens_NL.tolist(), options.beams
    for image, of_beams in enumerate(scores):
        for beam, summed in enumerate(of_beams):
            if summed > -torch.inf:
                words = tuple(tokens[image * beams + beam])
                finished[image].append(Decoded(words, summed, _penalised(summed, length + 1, options)))
        finished[image] = sorted(finished[image], key=lambda caption: -caption.score)[:beams]


def _all_over(finished: list[list[Decoded]], best: Sequence[float], length: int, options: Decoding) -> bool:
    """Whether no beginning of `length` + 1 tokens can still become one of the finished.

    Log-probabilities only fall, so the highest score that a beginning can reach is its own at the length that penalises
    least.
    """
    longest = options.max_length + 1 if options.length_penalty > 0 else length + 2
    return all(
        len(captions) >= options.beams and captions[-1].score >= _penalised(summed, longest, options)
        for captions, summed in zip(finished, best, strict=True)
    )


def _penalised(summed: float, length: int, options: Decoding) -> float:
    return summed / length**options.length_penalty


def _begin(state: NextToken, images: int, vocabulary: Vocabulary) -> Tensor:
    """Log-probabilities (V, W) of the first word."""
    # The device is the state's own affair: it takes tokens from anywhere.
    return _log_probabilities(state.advance(torch.full((images,), vocabulary.start)), vocabulary)


def _log_probabilities(logits_NW: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Log-probabilities of the next token; tokens that no caption holds are left out."""
    logits_NW = at_least_float32(logits_NW).clone()
    logits_NW[:, list(vocabulary.never)] = -torch.inf
    return logits_NW.log_softmax(1)


def _allowed(log_NW: Tensor, tokens_NL: Tensor, vocabulary: Vocabulary, options: Decoding) -> Tensor:
    """The log-probabilities of the tokens that may come next, all others being -inf; where none may, the end does."""
    length, end = tokens_NL.shape[1], vocabulary.end
    if length >= options.max_length:
        only_end_NW = torch.full_like(log_NW, -torch.inf)
        only_end_NW[:, end] = log_NW[:, end]
        return only_end_NW
    allowed_NW = log_NW.clone()
    if length < options.min_length:
        allowed_NW[:, end] = -torch.inf
    if options.block_ngrams and length >= options.block_ngrams:
        _block(allowed_NW, tokens_NL, options.block_ngrams, end)
    stuck_N = allowed_NW.isneginf().all(1)
    allowed_NW[stuck_N, end] = log_NW[stuck_N, end]
    return allowed_NW


def _block(allowed_NW: Tensor, tokens_NL: Tensor, size: int, end: int) -> None:
    """Exclude the tokens that would repeat a run of `size` tokens."""
    runs_NXS = tokens_NL.unfold(1, size, 1)
    latest_NS = tokens_NL[:, tokens_NL.shape[1] - size + 1 :]
    again_NX = (runs_NXS[..., :-1] == latest_NS[:, None]).all(2) & (runs_NXS[..., -1] != end)
    row, position = again_NX.nonzero(as_tuple=True)
    allowed_NW[row, runs_NXS[row, position, -1]] = -torch.inf


def _chance(options: Decoding, image: int) -> Tensor:
    """(candidates, max_length + 1) uniform numbers of one image, the same in whatever batch it is."""
    generator = torch.Generator().manual_seed((options.seed * 1_000_003 + image) % 2**63)
    return torch.rand(options.candidates, options.max_length + 1, generator=generator)


def _draw(allowed_NW: Tensor, chance_N: Tensor, options: Decoding) -> Tensor:
    """(N,) a token of each row by its chance in [0, 1), from the likeliest ones alone where the options say so."""
    sorted_NW, index_NW = (allowed_NW / options.temperature).log_softmax(1).sort(stable=True, dim=1, descending=True)
    share_NW = sorted_NW.exp()
    if options.top_k:
        share_NW[:, options.top_k :] = 0.0
        share_NW = share_NW / share_NW.sum(1, keepdim=True)
    if options.top_p < 1:  # the likeliest always stays
        share_NW = share_NW.masked_fill(share_NW.cumsum(1) - share_NW >= options.top_p, 0.0)
    until_NW = share_NW.cumsum(1)
    position_N = (until_NW <= chance_N[:, None] * until_NW[:, -1:]).sum(1)
    last_N = (share_NW > 0).sum(1) - 1  # where rounding leaves the chance just beyond the last
    return index_NW.gather(1, position_N.minimum(last_N)[:, None]).squeeze(1)
