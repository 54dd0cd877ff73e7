"""FGR, fine-grained ranking: match or no match, on both cross encoders, against hard negatives of the batch.

For every sample one hard negative image and one hard negative text are drawn with probability softmax(s), positives
excluded; 1 positive to 2 negatives, class weights 2 : 1; the losses of the two cross encoders are averaged.

Shapes: B pairs in the global batch, R rows of this process that are ranked (all, or a share), N = 3R ranked pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32
from ccmb.training.distributed import global_mean

IGNORED = -100  # the label that cross_entropy leaves out


def hard_negative_weights(similarity_RB: Tensor, positives_RB: Tensor, hardness: float = 1.0) -> Tensor:
    """Probabilities (R, B) with which each row's hard negative is drawn; positives have 0, rows sum to 1.

    Args:
        similarity_RB: s, cosine over temperature.
        positives_RB: True where a column is a positive of the row.
        hardness: the share that is drawn by the paper's softmax(s); the rest is drawn evenly (our choice: cross
            encoders that start from nothing learn nothing at all while most negatives are too hard for them).

    The mask is applied before the softmax, so that probabilities never all vanish. A row without negatives (one
    image fills the batch) gets even probabilities, and whoever draws must leave it out.
    """
    # Not-a-numbers of a diverged run count as 0: it is the loss that should report them.
    similarity_RB = at_least_float32(similarity_RB).nan_to_num()
    allowed_RB = ~positives_RB | positives_RB.all(1, keepdim=True)
    hard_RB = similarity_RB.masked_fill(~allowed_RB, -torch.inf).softmax(1)
    return hardness * hard_RB + (1.0 - hardness) * allowed_RB / allowed_RB.sum(1, keepdim=True)


@dataclass(frozen=True, slots=True)
class MatchPairs:
    """N = 3R pairs by index: R positives, then R with a wrong image, then R with a wrong text.

    Attributes:
        image_index, text_index: (N,) the pairs; as drawn, places in the global batch.
        labels: (N,) 1 match, 0 no match, IGNORED where a row has no negative.
    """

    image_index: Tensor
    text_index: Tensor
    labels: Tensor

    def select_rows(self, part: slice) -> MatchPairs:
        """The pairs of some of the R rows."""
        index = (tensor.view(3, -1)[:, part].flatten() for tensor in (self.image_index, self.text_index, self.labels))
        return MatchPairs(*index)

    def referenced_items(self) -> tuple[Tensor, Tensor, MatchPairs]:
        """The 2R images and the 2R texts of the pairs, and the pairs by index into these."""
        images, wrong_images, _ = self.image_index.chunk(3)
        texts, _, wrong_texts = self.text_index.chunk(3)
        own = torch.arange(len(images), device=images.device)
        wrong = own + len(images)
        pairs = MatchPairs(torch.cat([own, wrong, own]), torch.cat([own, own, wrong]), self.labels)
        return torch.cat([images, wrong_images]), torch.cat([texts, wrong_texts]), pairs


def sample_from_cdf(weights_RB: Tensor, uniform_R: Tensor) -> Tensor:
    """(R,) a column of each row, drawn with the row's probabilities by one number in [0, 1) each.

    The same number gives the same column on any device and however the rows are spread; and nothing is checked on the
    host, as `torch.multinomial` does.
    """
    ladder_RB = weights_RB.double().cumsum(1)
    height_R1 = uniform_R.double()[:, None] * ladder_RB[:, -1:]
    return torch.searchsorted(ladder_RB, height_R1, right=True).squeeze(1).clamp(max=weights_RB.shape[1] - 1)


def draw_pairs(
    image_rows_RB: Tensor,
    text_rows_RB: Tensor,
    positives_RB: Tensor,
    rows_R: Tensor,
    uniform_R2: Tensor,
    *,
    hardness: float = 1.0,
    image_positives_RB: Tensor | None = None,
) -> MatchPairs:
    """Positives and hard negatives of the rows.

    Args:
        image_rows_RB, text_rows_RB: s of the rows' images with all texts, and of their texts with all images; not
            differentiated.
        positives_RB: True where a text fits the image of a row.
        rows_R: where the rows stand in the global batch.
        uniform_R2: numbers in [0, 1) that draw each row's wrong text and wrong image.
        hardness: see `hard_negative_weights`.
        image_positives_RB: True where an image fits the text of a row; by default the same.
    """
    if image_positives_RB is None:
        image_positives_RB = positives_RB
    wrong_text = sample_from_cdf(
        hard_negative_weights(image_rows_RB.detach(), positives_RB, hardness), uniform_R2[:, 0]
    )
    wrong_image = sample_from_cdf(
        hard_negative_weights(text_rows_RB.detach(), image_positives_RB, hardness), uniform_R2[:, 1]
    )
    match, no_match = torch.ones_like(rows_R), torch.zeros_like(rows_R)
    return MatchPairs(
        torch.cat([rows_R, wrong_image, rows_R]),
        torch.cat([rows_R, rows_R, wrong_text]),
        torch.cat([match, *(no_match.masked_fill(of.all(1), IGNORED) for of in (image_positives_RB, positives_RB))]),
    )


def fgr_loss(logits_text_image_N2: Tensor, logits_image_text_N2: Tensor, labels_N: Tensor) -> Tensor:
    """Match loss (scalar): weighted cross-entropy on each cross encoder, averaged; positives weigh 2, negatives 1.

    As in the official code the weights also divide: each is a weighted mean over the labels that are not IGNORED, of
    the global batch.
    """
    weights = torch.arange(1.0, 3.0, device=labels_N.device)  # 1 and 2, made there: a copy would wait for the device
    summed = F.cross_entropy(at_least_float32(logits_text_image_N2), labels_N, weight=weights, reduction="sum")
    summed = summed + F.cross_entropy(at_least_float32(logits_image_text_N2), labels_N, weight=weights, reduction="sum")
    count = torch.where(labels_N == IGNORED, 0.0, weights[labels_N.clamp(min=0)]).sum()
    return global_mean(summed / 2, count)
