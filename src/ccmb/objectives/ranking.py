"""FGR, fine-grained ranking: match or no match, on both cross encoders, against hard negatives of the batch.

For every sample one hard negative picture and one hard negative text are drawn with probability softmax(s), positives
excluded; 1 positive to 2 negatives, class weights 2 : 1; the losses of the two cross encoders are averaged.

Shapes: B pairs in the batch, R rows that are ranked (all, or a share), N = 3R ranked pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100  # the label that cross_entropy leaves out


def hard_negative_weights(similarity_RB: Tensor, positives_RB: Tensor, hardness: float = 1.0) -> Tensor:
    """Probabilities (R, B) with which each row's hard negative is drawn; positives have 0, rows sum to 1.

    Args:
        similarity_RB: s, cosine over temperature.
        positives_RB: True where a column is a positive of the row.
        hardness: the share that is drawn by the paper's softmax(s); the rest is drawn evenly (our choice: cross
            encoders that start from nothing learn nothing at all while most negatives are too hard for them).

    The mask is applied before the softmax, so that probabilities never all vanish. A row without negatives (one
    picture fills the batch) gets even probabilities, and whoever draws must leave it out.
    """
    # Not-a-numbers of a diverged run count as 0: it is the loss that should report them.
    similarity_RB = similarity_RB.float().nan_to_num()
    allowed_RB = ~positives_RB | positives_RB.all(1, keepdim=True)
    hard_RB = similarity_RB.masked_fill(~allowed_RB, -torch.inf).softmax(1)
    return hardness * hard_RB + (1.0 - hardness) * allowed_RB / allowed_RB.sum(1, keepdim=True)


@dataclass(frozen=True, slots=True)
class MatchPairs:
    """N = 3R pairs by index into the batch: R positives first, then R with a wrong picture, then R with a wrong text.

    Attributes:
        image_index, text_index: (N,) the pairs.
        labels: (N,) 1 match, 0 no match, IGNORED where a row has no negative.
    """

    image_index: Tensor
    text_index: Tensor
    labels: Tensor


def draw_pairs(
    similarity_BB: Tensor,
    positives_BB: Tensor,
    rows_R: Tensor,
    hardness: float = 1.0,
    generator: torch.Generator | None = None,
) -> MatchPairs:
    """Positives and hard negatives of the rows.

    Args:
        similarity_BB: s of [image, text]; it is not differentiated.
        positives_BB: symmetric, True where two samples show the same picture.
        rows_R: the rows to rank.
        hardness: see `hard_negative_weights`.
    """
    similarity_BB, positives_RB = similarity_BB.detach(), positives_BB[rows_R]
    texts_of_images = hard_negative_weights(similarity_BB[rows_R], positives_RB, hardness)
    images_of_texts = hard_negative_weights(similarity_BB.T[rows_R], positives_RB, hardness)
    wrong_text = torch.multinomial(texts_of_images, 1, generator=generator).squeeze(1)
    wrong_image = torch.multinomial(images_of_texts, 1, generator=generator).squeeze(1)
    match = torch.ones_like(rows_R)
    no_match = torch.zeros_like(rows_R).masked_fill(positives_RB.all(1), IGNORED)
    return MatchPairs(
        torch.cat([rows_R, wrong_image, rows_R]),
        torch.cat([rows_R, rows_R, wrong_text]),
        torch.cat([match, no_match, no_match]),
    )


def fgr_loss(logits_text_image_N2: Tensor, logits_image_text_N2: Tensor, labels_N: Tensor) -> Tensor:
    """Match loss (scalar): weighted cross-entropy on each cross encoder, averaged; positives weigh 2, negatives 1.

    As in the official code the weights also divide: each is a weighted mean over the labels that are not IGNORED.
    """
    weights = torch.arange(1.0, 3.0, device=labels_N.device)  # 1 and 2, made there: a copy would wait for the device
    return (
        F.cross_entropy(logits_text_image_N2.float(), labels_N, weight=weights)
        + F.cross_entropy(logits_image_text_N2.float(), labels_N, weight=weights)
    ) / 2
