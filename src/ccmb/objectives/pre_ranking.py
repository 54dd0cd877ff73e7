"""GCPR, global contrastive pre-ranking: pull matching pictures and texts together over the global batch.

    L = -1/2 * mean_i [ sum_j y_ij log softmax_j s(I_i, T_j) + sum_j y_ij log softmax_j s(T_i, I_j) ]
    s = cosine / temperature

Shapes: B pairs in the batch, C columns that a row is compared with, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def same_image(image_ids_B: Tensor) -> Tensor:
    """(B, B) True where two samples show the same picture, and so are positives of each other."""
    return image_ids_B[:, None] == image_ids_B[None, :]


def even_targets(positives_BB: Tensor) -> Tensor:
    """(B, B) targets whose rows sum to 1: the mass is shared evenly among a row's positives (official code)."""
    targets = positives_BB.float()
    return targets / targets.sum(1, keepdim=True)


def similarity(rows_BD: Tensor, columns_CD: Tensor, temperature: Tensor) -> Tensor:
    """s (B, C), cosine over temperature of L2-normalised features, in float32 also under autocast.

    In bfloat16 a cosine near 1 is off by up to 0.004, which a temperature of 0.01 makes 0.4.
    """
    with torch.autocast(rows_BD.device.type, enabled=False):
        return rows_BD.float() @ columns_CD.float().T / temperature


def soft_cross_entropy(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean over rows (scalar) of the cross-entropy against distributions.

    A column with logit -inf and target 0 counts for nothing.
    """
    log_probabilities_BC = F.log_softmax(logits_BC, dim=1).masked_fill(targets_BC == 0, 0.0)
    return -(targets_BC * log_probabilities_BC).sum(1).mean()


def gcpr_loss(image_BD: Tensor, text_BD: Tensor, temperature: Tensor, targets_BB: Tensor) -> Tensor:
    """Symmetric contrastive loss (scalar) of L2-normalised embeddings.

    Args:
        targets_BB: symmetric, rows summing to 1.
    """
    similarity_BB = similarity(image_BD, text_BD, temperature)
    return (soft_cross_entropy(similarity_BB, targets_BB) + soft_cross_entropy(similarity_BB.T, targets_BB)) / 2
