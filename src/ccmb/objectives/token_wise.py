"""The token-wise loss: images and texts by their tokens, each with its best partner; off unless it is asked for.

FILIP (Yao et al. 2021, arXiv 2111.07783) and Wukong (Gu et al. 2022, arXiv 2202.06767) contrast pairs by these scores
in the place of one cosine, with temperature t:

    s(I, T) = mean over tokens v of I of max over tokens w of T of v . w
    s(T, I) = mean over tokens w of T of max over tokens v of I of v . w
    L = -1/2 * mean_i [ sum_j y_ij log softmax_j s(I_i, T_j) / t + sum_j y_ij log softmax_j s(T_i, I_j) / t ]

The tokens go through the projections of the pooled states, as Wukong's do, so that a model needs no further weights to
rank by late interaction, `late:MODEL`.

Shapes: B pairs in the global batch, R rows of this process, C columns of a part, S and T tokens of an item, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccmb.core.choices import Padding
from ccmb.core.floats import at_least_float32
from ccmb.objectives.pre_ranking import mask_ignored, soft_cross_entropy

MAX_COSINES = 2**24  # of pairs of tokens that are held at a time


@dataclass(frozen=True, slots=True)
class Tokens:
    """L2-normalised tokens (B, tokens, D) of items, and their mask (B, tokens), 1 where real; None: all are."""

    states: Tensor
    mask: Tensor | None = None


def directed_matrix(
    rows: Tokens, columns: Tokens, padding: Padding = "exact", max_cosines: int = MAX_COSINES
) -> Tensor:
    """(R, B) scores from rows to columns: the mean over a row's real tokens of the best cosine with a column's tokens.

    Memory does not grow with R x B x tokens of both: a part of the columns is held at a time, and computed anew for the
    gradient.

    Args:
        padding: how a column's padding counts, see `Padding`.
    """
    own, others = rows.states.shape[:2], columns.states.shape[1]
    size = max(1, max_cosines // (own[0] * own[1] * others))
    parts = []
    for start in range(0, len(columns.states), size):
        mask = None if columns.mask is None else columns.mask[start : start + size]
        inputs = rows.states, rows.mask, columns.states[start : start + size], mask, padding
        parts.append(checkpoint(_part, *inputs, use_reentrant=False) if torch.is_grad_enabled() else _part(*inputs))
    return torch.cat(parts, 1)


def _part(
    rows_RSD: Tensor, mask_RS: Tensor | None, columns_CTD: Tensor, mask_CT: Tensor | None, padding: Padding
) -> Tensor:
    """(R, C)."""
    with torch.autocast(rows_RSD.device.type, enabled=False):
        flat_XD, flat_YD = (at_least_float32(states).flatten(0, 1) for states in (rows_RSD, columns_CTD))
        cosine_RSCT = (flat_XD @ flat_YD.T).view(*rows_RSD.shape[:2], *columns_CTD.shape[:2])
        if mask_CT is not None:
            cosine_RSCT = cosine_RSCT.masked_fill(~mask_CT.bool(), 0.0 if padding == "official" else -torch.inf)
        best_RSC = cosine_RSCT.amax(3)
        if mask_RS is None:
            return best_RSC.mean(1)
        weight_RS = mask_RS.to(best_RSC.dtype)
        return torch.einsum("rsc,rs->rc", best_RSC, weight_RS / weight_RS.sum(1, keepdim=True))


def token_wise_loss(
    images: Tokens,
    texts: Tokens,
    all_images: Tokens,
    all_texts: Tokens,
    temperature: Tensor,
    *,
    targets_RB: Tensor,
    image_targets_RB: Tensor,
    ignore_mask_RB: Tensor | None = None,
    image_ignore_mask_RB: Tensor | None = None,
    padding: Padding = "exact",
    max_cosines: int = MAX_COSINES,
) -> Tensor:
    """The loss (scalar) of this process's rows against the global batch, gathered with gradient.

    Args:
        targets_RB, ignore_mask_RB: of the rows' images over all texts, see `gcpr_loss`.
        image_targets_RB, image_ignore_mask_RB: of the rows' texts over all images.
    """
    to_texts_RB = directed_matrix(images, all_texts, padding, max_cosines) / temperature
    to_images_RB = directed_matrix(texts, all_images, padding, max_cosines) / temperature
    return (
        soft_cross_entropy(mask_ignored(to_texts_RB, ignore_mask_RB), targets_RB)
        + soft_cross_entropy(mask_ignored(to_images_RB, image_ignore_mask_RB), image_targets_RB)
    ) / 2
