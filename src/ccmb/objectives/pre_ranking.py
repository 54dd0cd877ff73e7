"""GCPR, global contrastive pre-ranking: pull matching pictures and texts together over the global batch.

    L = -1/2 * mean_i [ sum_j y_ij log softmax_j s(I_i, T_j) + sum_j y_ij log softmax_j s(T_i, I_j) ],  s = cosine / temperature

Shapes: B pairs in the batch, D embedding width, Q further columns (the feature queue).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def same_image(image_ids_B: Tensor) -> Tensor:
    """(B, B) True where two samples show the same picture, and so are positives of each other."""
    return image_ids_B[:, None] == image_ids_B[None, :]


def even_targets(positives_BB: Tensor) -> Tensor:
    """(B, B) targets whose rows sum to 1: the mass is shared evenly among a row's positives (official code)."""
    targets = positives_BB.float()
    return targets / targets.sum(1, keepdim=True)


def soft_cross_entropy(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy against a distribution; float32."""
    return -(targets_BC * F.log_softmax(logits_BC.float(), dim=1)).sum(1).mean()


def gcpr_loss(image_BD: Tensor, text_BD: Tensor, temperature: Tensor, targets_BB: Tensor) -> Tensor:
    """Symmetric contrastive loss (scalar) of L2-normalised embeddings; `targets_BB` is symmetric with rows summing to 1."""
    similarity_BB = image_BD.float() @ text_BD.float().T / temperature
    return (soft_cross_entropy(similarity_BB, targets_BB) + soft_cross_entropy(similarity_BB.T, targets_BB)) / 2
