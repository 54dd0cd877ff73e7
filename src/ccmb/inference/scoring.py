"""The second stage's scores of many pairs, for evaluation and search.

Two rules turn a pair's cosine and the outputs of its match heads into the score that orders:

- "sum", the paper's: cosine + match score, the mean of the two match probabilities.
- "log_odds" (our choice): s + w times the log-odds of both match heads, where s is cosine / temperature and w is 1 or
  what the configuration says (`match_weight`). FGR's negatives are drawn by softmax(s), so a match head that has
  learned its task perfectly says how much likelier a pair is than the first stage believes (as in noise-contrastive
  estimation, Gutmann & Hyvarinen 2010). Added in these units, a second stage that knows nothing changes nothing, where
  a cosine counts for next to nothing beside a match probability.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.core.choices import RankingRule
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.items import EncodedItems
from ccmb.r2d2.cross_encoder import RankOutput
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput

# Numbers of the widest layer that are computed at a time: on a CPU those that its caches hold.
CHUNK = {"cpu": 6 * 2**20, "cuda": 2**28}


@dataclass(frozen=True, slots=True)
class Match:
    """Outputs of the match heads for N pairs.

    Attributes:
        score: (N,) match score in [0, 1].
        log_odds: (N,) sum of both heads' log-odds of a match.
        head_log_odds: (N, 2) log-odds of a match by the text-image head and by the image-text head.
        temperature: the model's `match_temperature`.
        is_calibrated: whether that was fitted, so that `probability` is one.
    """

    score: Tensor
    log_odds: Tensor
    head_log_odds: Tensor
    temperature: float = 1.0
    is_calibrated: bool = False

    @property
    def probability(self) -> Tensor:
        """(N,) probability of a match at the temperature; see `match_probability`."""
        return match_probability(self.head_log_odds, self.temperature)


@dataclass(frozen=True, slots=True)
class PairScore:
    """The scores of a text and an image.

    Attributes:
        cosine: of the two embeddings, in [-1, 1].
        match_score: in [0, 1]; None without a second stage.
        probability: calibrated one of a match, in [0, 1]; None without a second stage, or where `ccmb calibrate` was
            not run on the model.
        score: what pairs are ordered by: the ranking rule's score, or the cosine without a second stage.
    """

    cosine: float
    match_score: float | None
    probability: float | None
    score: float


@dataclass(frozen=True, slots=True)
class StageScores:
    """Scores of both stages for N pairs.

    Attributes:
        cosine: (N,) the first stage's.
        match: the second stage's; None where there is none.
        ranking: (N,) what the last stage orders by: by the ranking rule, or the cosine without a second stage.
    """

    cosine: Tensor
    match: Match | None
    ranking: Tensor

    @property
    def probability(self) -> Tensor | None:
        """(N,) calibrated probability of a match; None where no temperature was fitted, or nothing matches."""
        return self.match.probability if self.match is not None and self.match.is_calibrated else None

    def rows(self) -> list[PairScore]:
        """The scores of each pair."""
        none = [None] * len(self.cosine)
        match = none if self.match is None else self.match.score.tolist()
        probability = none if self.probability is None else self.probability.tolist()
        columns = (self.cosine.tolist(), match, probability, self.ranking.tolist())
        return [PairScore(*row) for row in zip(*columns, strict=True)]


def pair_cosines(images: EncodedItems, texts: EncodedItems, image_index_N: Tensor, text_index_N: Tensor) -> Tensor:
    """(N,) cosines of pairs picked by index."""
    return (images.embed[image_index_N] * texts.embed[text_index_N]).sum(1)


def match_probability(head_log_odds_N2: Tensor, temperature: float) -> Tensor:
    """(N,) mean of both heads' match probabilities, softmax(logits / temperature); at 1 it is the match score."""
    return (head_log_odds_N2 / temperature).sigmoid().mean(1)


def ranking_scores(model: TwoStageModel, cosine_N: Tensor, match: Match, rule: RankingRule | None = None) -> Tensor:
    """(N,) scores by which the second stage orders, after a rule; None is the model's own `ranking_rule`."""
    if (rule or model.config.ranking_rule) == "log_odds":
        first_N = cosine_N / model.temperature.detach().to(cosine_N.device)
        return first_N + model.config.match_weight * match.log_odds
    return cosine_N + match.score


def rank_pairs(
    model: TwoStageModel,
    images: EncodedItems,
    texts: EncodedItems,
    image_index_N: Tensor,
    text_index_N: Tensor,
    batch: int | None = None,
    text_image_only: bool = False,
) -> Match:
    """Match N pairs picked by index; each cross encoder goes through them in chunks that read only what they need.

    Args:
        batch: most pairs of the image-text encoder at a time, and sixteen times as many of the text-image encoder,
            whose pairs have fewer tokens; by default what suits the device.
        text_image_only: ask the text-image encoder alone, and take the image-text encoder to give the same logits. It
            reads the few tokens of a text where the other reads the many of an image, and so costs a tenth of both.

    Raises:
        ValueError: the network has no cross encoders.
    """
    model.check_can_rank()
    if not len(image_index_N):
        return _match(model, torch.empty(0), torch.empty(0), torch.empty(0, 2))
    # Pairs of an image stand together, so that its keys and values serve them all; its texts by length.
    length_N = texts.lengths(text_index_N).cpu()
    order_N = (image_index_N * (1 + int(length_N.max())) + length_N).argsort(stable=True)
    image_N, text_N = image_index_N[order_N], text_index_N[order_N]
    if batch is None:
        batch = max(1, CHUNK[model.device.type] // (model.config.cross_ffn * int(images.lengths(image_index_N[:1]))))
    text_image = _in_chunks(
        model.match_text_image, model, images, texts, image_N=image_N, text_N=text_N, max_pairs=16 * batch
    )
    image_text = text_image
    if not text_image_only and not model.config.decoder_layers:  # a decoder is both heads
        image_text = _in_chunks(
            model.match_image_text, model, images, texts, image_N=image_N, text_N=text_N, max_pairs=batch
        )
    back_N = order_N.argsort()
    output = RankOutput(text_image[back_N], image_text[back_N], states=torch.empty(0, 0, 0))
    return _match(model, output.score, output.log_odds, output.head_log_odds)


def _match(model: TwoStageModel, score_N: Tensor, log_odds_N: Tensor, head_log_odds_N2: Tensor) -> Match:
    config = model.config
    return Match(score_N, log_odds_N, head_log_odds_N2, config.match_temperature, config.is_calibrated)


def _in_chunks(
    encoder: Callable[[TowerOutput, TowerOutput, Tensor, Tensor], Tensor],
    model: TwoStageModel,
    images: EncodedItems,
    texts: EncodedItems,
    image_N: Tensor,
    text_N: Tensor,
    max_pairs: int,
) -> Tensor:
    """Logits (N, 2) of pairs that are sorted by image, on the CPU."""
    device, dtype = model.device, model.cross_dtype
    sizes, parts = chunk_sizes(image_N, max_pairs), [torch.empty(0, 2)]
    for image_P, text_P in zip(image_N.split(sizes), text_N.split(sizes), strict=True):
        image_items, image_index = image_P.unique(return_inverse=True)
        text_items, text_index = text_P.unique(return_inverse=True)
        some_images = _cut(images[image_items]).to(device, dtype)
        some_texts = _cut(texts[text_items]).to(device, dtype)
        with torch.autocast(device.type, torch.bfloat16, enabled=False):
            parts.append(encoder(some_images, some_texts, image_index.to(device), text_index.to(device)).cpu())
    return torch.cat(parts)


def chunk_sizes(image_N: Tensor, max_pairs: int) -> list[int]:
    """Sizes of chunks of at most `max_pairs` pairs, where those of an image stand together.

    An image with many pairs has chunks of its own, in which its keys and values need not be copied; others share.
    """
    sizes, shared = [], 0
    for count in image_N.unique_consecutive(return_counts=True)[1].tolist():
        alone = 2 * count > max_pairs
        if shared and (alone or shared + count > max_pairs):
            sizes.append(shared)
            shared = 0
        if alone:
            parts = -(-count // max_pairs)
            sizes += [count // parts + (part < count % parts) for part in range(parts)]
        else:
            shared += count
    return [*sizes, shared] if shared else sizes


def _cut(items: TowerOutput) -> TowerOutput:
    """Cut off the padding that all items share."""
    if items.mask is None:
        return items
    longest = int(items.mask.sum(1).max())
    return TowerOutput(items.embed, items.states[:, :longest], items.mask[:, :longest])


def in_bf16(model: R2D2Model) -> R2D2Model:
    """The model with cross encoders in bf16 and match heads in fp32; the towers are shared, not copied."""
    half = copy.deepcopy(model, {id(part): part for part in (model.image_tower, model.text_tower)})
    parts = (
        (half.likelihood,)
        if half.likelihood is not None
        else (half.text_image_encoder, half.image_text_encoder, half.image_to_cross)
    )
    for part in parts:
        part.to(torch.bfloat16)
    return half
