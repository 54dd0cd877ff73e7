"""FGR, fine-grained ranking: match or no match, on both cross encoders, against hard negatives of the batch.

For every sample one hard negative image and one hard negative text are sampled with probability softmax(s), positives
excluded; 1 positive to 2 negatives, class weights 2 : 1; the losses of the two cross encoders are averaged.

Shapes: B pairs in the global batch, R rows of this process that are ranked (all, or a share), N = 3R ranked pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.floats import at_least_float32
from ccmb.objectives.pre_ranking import mask_ignored, multi_positive_targets, soft_cross_entropy
from ccmb.training.distributed import global_mean

IGNORED = -100  # the label that cross_entropy leaves out


def hard_negative_weights(similarity_RB: Tensor, positives_RB: Tensor, hardness: float = 1.0) -> Tensor:
    """Probabilities (R, B) by which each row's hard negative is sampled; positives have 0, rows sum to 1.

    Args:
        similarity_RB: s, cosine over temperature.
        positives_RB: True where a column is a positive of the row.
        hardness: the share that is sampled by the paper's softmax(s); the others are sampled uniformly (our choice:
            cross encoders with random weights learn nothing while most negatives are too hard for them).

    The mask is applied before the softmax, so that probabilities never all vanish. A row without negatives (one image
    fills the batch) gets uniform probabilities, and the caller must leave it out.
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
        image_index, text_index: (N,) the pairs; as sampled, indices into the global batch.
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
        """Indices of the 2R images and of the 2R texts that the pairs refer to, and the pairs by index into these."""
        images, wrong_images, _ = self.image_index.chunk(3)
        texts, _, wrong_texts = self.text_index.chunk(3)
        own = torch.arange(len(images), device=images.device)
        wrong = own + len(images)
        pairs = MatchPairs(torch.cat([own, wrong, own]), torch.cat([own, own, wrong]), self.labels)
        return torch.cat([images, wrong_images]), torch.cat([texts, wrong_texts]), pairs


def sample_from_cdf(weights_RB: Tensor, uniform_R: Tensor) -> Tensor:
    """(R,) a column of each row, sampled by inverting the row's cumulative weights at one number in [0, 1).

    The same number gives the same column on any device, for any distribution of the rows over processes. And the host
    does not wait for a check, as it does in `torch.multinomial`.
    """
    cdf_RB = weights_RB.double().cumsum(1)
    height_R1 = uniform_R.double()[:, None] * cdf_RB[:, -1:]
    return torch.searchsorted(cdf_RB, height_R1, right=True).squeeze(1).clamp(max=weights_RB.shape[1] - 1)


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
        rows_R: indices of the rows in the global batch.
        uniform_R2: numbers in [0, 1) by which each row's wrong text and wrong image are sampled.
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
        torch.cat([match, *(no_match.masked_fill(p.all(1), IGNORED) for p in (image_positives_RB, positives_RB))]),
    )


def fgr_loss(logits_text_image_N2: Tensor, logits_image_text_N2: Tensor, labels_N: Tensor) -> Tensor:
    """FGR (scalar): weighted cross-entropy of each cross encoder, averaged; positives weigh 2, negatives 1.

    As in the official code the weights also divide: each is a weighted mean over the labels that are not IGNORED, of
    the global batch.
    """
    weights = torch.arange(1.0, 3.0, device=labels_N.device)  # 1 and 2, made there: a copy would wait for the device
    summed = F.cross_entropy(at_least_float32(logits_text_image_N2), labels_N, weight=weights, reduction="sum")
    summed = summed + F.cross_entropy(at_least_float32(logits_image_text_N2), labels_N, weight=weights, reduction="sum")
    count = torch.where(labels_N == IGNORED, 0.0, weights[labels_N.clamp(min=0)]).sum()
    return global_mean(summed / 2, count)


def listwise_fgr_loss(
    log_odds_RBE: Tensor, log_odds_of_images_RBE: Tensor, image_positives_RB: Tensor, positives_RB: Tensor
) -> Tensor:
    """FGR (scalar) with all negatives of the batch: which image fits the text best, and which text the image.

    As GCPR, with the cross encoders' log-odds of a match in place of the similarity; each encoder is trained by itself.

    Args:
        log_odds_RBE: of the rows' texts with all images, by each of E cross encoders.
        log_odds_of_images_RBE: of the rows' images with all texts.
        image_positives_RB: True where an image fits the text of a row.
        positives_RB: True where a text fits the image of a row.
    """
    of_images = multi_positive_targets(image_positives_RB), log_odds_RBE
    of_texts = multi_positive_targets(positives_RB), log_odds_of_images_RBE
    losses = [
        soft_cross_entropy(log_odds_RB, targets_RB)
        for targets_RB, log_odds in (of_images, of_texts)
        for log_odds_RB in at_least_float32(log_odds).unbind(-1)
    ]
    return torch.stack(losses).mean()


def taught_by_ranker_loss(
    similarity_RB: Tensor, log_odds_RBE: Tensor, match_weight: float, ignore_mask_RB: Tensor | None = None
) -> Tensor:
    """Mean over rows (scalar) of KL(ranking || pre-ranking): the towers learn the cross encoders' order of the batch.

    Dynamic listwise distillation (Ren et al. 2021, RocketQAv2, arXiv 2110.07367), with the scores of the ranking rule
    "log_odds" as the teacher's: s and `match_weight` times the log-odds of all E encoders. Where these say nothing, the
    loss is 0. No gradient goes to the teacher.

    Args:
        similarity_RB: s of the rows with all columns, differentiated.
        log_odds_RBE: of the same pairs.
        ignore_mask_RB: True where a row ignores a column.
    """
    student_RB = F.log_softmax(mask_ignored(similarity_RB, ignore_mask_RB), dim=1)
    with torch.no_grad():
        ranking_RB = similarity_RB + match_weight * at_least_float32(log_odds_RBE).sum(-1)
        teacher_RB = F.log_softmax(mask_ignored(ranking_RB, ignore_mask_RB), dim=1)
    # Where a column is ignored both are -inf.
    distance_RB = (teacher_RB - student_RB).masked_fill(teacher_RB == -torch.inf, 0.0)
    return (teacher_RB.exp() * distance_RB).sum(1).mean()
