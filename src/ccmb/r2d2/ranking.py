"""The second stage's score of many pairs: what evaluation and search have in common.

Two rules turn a pair's cosine and the outputs of its match heads into the score that orders:

- "sum", the paper's: cosine + match score, the mean of the two match probabilities.
- "log_odds" (our choice): s + the log-odds of both match heads, where s is cosine / temperature. FGR's negatives are
  drawn by softmax(s), so a match head that has learned its task perfectly says how much likelier a pair is than the
  first stage believes (as in noise-contrastive estimation, Gutmann & Hyvarinen 2010). Added in these units, a second
  stage that knows nothing changes nothing, where a cosine counts for next to nothing beside a match probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.r2d2.modeling import R2D2Model, TowerOutput


@dataclass(frozen=True, slots=True)
class Match:
    """What the match heads say of N pairs.

    Attributes:
        score: (N,) match score in [0, 1].
        log_odds: (N,) sum of both heads' log-odds of a match.
        head_log_odds: (N, 2) log-odds of a match by the text-image head and by the image-text head.
        temperature: the model's `match_temperature`.
    """

    score: Tensor
    log_odds: Tensor
    head_log_odds: Tensor
    temperature: float = 1.0

    @property
    def probability(self) -> Tensor:
        """(N,) calibrated probability of a match; see `match_probability`."""
        return match_probability(self.head_log_odds, self.temperature)


def match_probability(head_log_odds_N2: Tensor, temperature: float) -> Tensor:
    """(N,) mean of both heads' match probabilities, softmax(logits / temperature); at 1 it is the match score."""
    return (head_log_odds_N2 / temperature).sigmoid().mean(1)


def ranking_scores(model: R2D2Model, cosine_N: Tensor, match: Match) -> Tensor:
    """(N,) what the second stage orders by, after the model's `ranking_rule`."""
    if model.config.ranking_rule == "log_odds":
        return cosine_N / model.temperature.detach().to(cosine_N.device) + match.log_odds
    return cosine_N + match.score


def rank_pairs(
    model: R2D2Model,
    images: TowerOutput,
    texts: TowerOutput,
    image_index_N: Tensor,
    text_index_N: Tensor,
    batch: int = 2048,
) -> Match:
    """Match N pairs picked by index, in batches that send only the items they need."""
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(image_index_N), batch):
        image_items, image_index = image_index_N[start : start + batch].unique(return_inverse=True)
        text_items, text_index = text_index_N[start : start + batch].unique(return_inverse=True)
        pair_images, pair_texts = images[image_items], texts[text_items]
        if pair_texts.mask is not None:
            longest = int(pair_texts.mask.sum(1).max())
            pair_texts = TowerOutput(pair_texts.embed, pair_texts.states[:, :longest], pair_texts.mask[:, :longest])
        device = model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=False):
            output = model.rank(
                pair_images.to(device), pair_texts.to(device), image_index.to(device), text_index.to(device)
            )
        outputs.append((output.score.cpu(), output.log_odds.cpu(), output.head_log_odds.cpu()))
    score_N, log_odds_N, head_log_odds_N2 = map(torch.cat, zip(*outputs, strict=True))
    return Match(score_N, log_odds_N, head_log_odds_N2, model.config.match_temperature)
