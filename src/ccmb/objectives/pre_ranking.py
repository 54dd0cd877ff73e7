"""GCPR, global contrastive pre-ranking: pull matching images and texts together over the global batch.

    L = -1/2 * mean_i [ sum_j y_ij log softmax_j s(I_i, T_j) + sum_j y_ij log softmax_j s(T_i, I_j) ]
    s = cosine / temperature

Shapes: B pairs in the global batch, R rows of this process (all, if it is alone), C columns that a row is compared
with, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.floats import as_default_float, at_least_float32
from ccmb.r2d2.projection import of_heads
from ccmb.training.gradient_cache import in_chunks


def positive_mask(image_ids_R: Tensor, image_ids_B: Tensor | None = None) -> Tensor:
    """(R, B) True where two samples show the same image, which makes them positives of each other.

    Args:
        image_ids_B: of the global batch; by default the rows' own.
    """
    return image_ids_R[:, None] == (image_ids_R if image_ids_B is None else image_ids_B)[None, :]


def multi_positive_targets(positives_RB: Tensor) -> Tensor:
    """(R, B) targets y whose rows sum to 1: the mass is shared evenly among a row's positives (official code)."""
    targets = as_default_float(positives_RB)
    return targets / targets.sum(1, keepdim=True)


def similarity(rows_BD: Tensor, columns_CD: Tensor, temperature: Tensor) -> Tensor:
    """s (B, C), cosine over temperature of L2-normalised features, in float32 also under autocast.

    In bfloat16 a cosine near 1 is off by up to 0.004, which a temperature of 0.01 makes 0.4.
    """
    with torch.autocast(rows_BD.device.type, enabled=False):
        return at_least_float32(rows_BD) @ at_least_float32(columns_CD).T / temperature


def soft_cross_entropy(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean over rows (scalar) of the cross-entropy against target distributions.

    A column with logit -inf and target 0 is ignored.
    """
    log_probabilities_BC = F.log_softmax(logits_BC, dim=1).masked_fill(targets_BC == 0, 0.0)
    return -(targets_BC * log_probabilities_BC).sum(1).mean()


def mask_ignored(logits_RC: Tensor, ignore_mask_RB: Tensor | None) -> Tensor:
    """The logits, -inf where a row ignores one of the first B columns."""
    if ignore_mask_RB is None:
        return logits_RC
    ignore_mask_RC = F.pad(ignore_mask_RB, (0, logits_RC.shape[1] - ignore_mask_RB.shape[1]))
    return logits_RC.masked_fill(ignore_mask_RC, -torch.inf)


def gcpr_loss(
    image_RD: Tensor,
    text_RD: Tensor,
    temperature: Tensor,
    targets_RB: Tensor,
    *,
    image_BD: Tensor | None = None,
    text_BD: Tensor | None = None,
    chunk: int | None = None,
    ignore_mask_RB: Tensor | None = None,
    image_targets_RB: Tensor | None = None,
    image_ignore_mask_RB: Tensor | None = None,
    heads: int = 1,
) -> Tensor:
    """GCPR (scalar): the symmetric contrastive loss of this process's rows against the global batch.

    Args:
        image_RD, text_RD: L2-normalised embeddings of the rows.
        targets_RB: y of the rows' images over all texts; rows sum to 1.
        image_BD, text_BD: of the global batch, gathered with gradient; by default the rows' own.
        ignore_mask_RB: True where a row ignores a column; its target must be 0.
        chunk: rows whose similarities are held at a time, see `in_chunks`; by default all.
        image_targets_RB, image_ignore_mask_RB: the same of the rows' texts over all images; by default equal to those.
        heads: of the projections; the loss is the mean of theirs, each by its own share of the embeddings.
    """
    if image_targets_RB is None:
        image_targets_RB, image_ignore_mask_RB = targets_RB, ignore_mask_RB
    all_image_BD, all_text_BD = image_RD if image_BD is None else image_BD, text_RD if text_BD is None else text_BD

    def summed(rows: slice) -> Tensor:
        losses = []
        for queries_RD, columns_BD, targets, ignore_mask in (
            (image_RD[rows], all_text_BD, targets_RB[rows], ignore_mask_RB),
            (text_RD[rows], all_image_BD, image_targets_RB[rows], image_ignore_mask_RB),
        ):
            for queries, columns in zip(of_heads(queries_RD, heads), of_heads(columns_BD, heads), strict=True):
                logits = mask_ignored(
                    similarity(queries, columns, temperature), None if ignore_mask is None else ignore_mask[rows]
                )
                losses.append(soft_cross_entropy(logits, targets))
        return sum(losses[1:], losses[0]) * len(targets_RB[rows]) / heads

    return torch.stack(in_chunks(summed, len(image_RD), chunk)).sum() / (2 * len(image_RD))


def text_to_text_loss(
    text_RD: Tensor,
    text_BD: Tensor,
    temperature: Tensor,
    *,
    positives_RB: Tensor,
    left_out_RB: Tensor,
    chunk: int | None = None,
    heads: int = 1,
) -> Tensor:
    """A contrastive loss (scalar) of this process's texts against those of the global batch; not the paper's.

    The texts of one image, as in two languages, are positives, and share a row's target evenly. A text without any
    counts as 0, so that the mean over all rows does not depend on how rows are spread over processes.

    Args:
        text_RD, text_BD: L2-normalised embeddings, of the global batch gathered with gradient.
        positives_RB: texts of a row's image, itself among them or not.
        left_out_RB: columns that are neither, as the row itself and equal texts.
        chunk, heads: see `gcpr_loss`.
    """
    positives_RB = positives_RB & ~left_out_RB

    def summed(rows: slice) -> Tensor:
        positives, left_out = positives_RB[rows], left_out_RB[rows]
        has_any_R = positives.any(1)
        targets = as_default_float(positives) / positives.sum(1, keepdim=True).clamp(min=1)
        total = text_RD.new_zeros((), dtype=targets.dtype)
        for queries, columns in zip(of_heads(text_RD[rows], heads), of_heads(text_BD, heads), strict=True):
            logits = similarity(queries, columns, temperature).masked_fill(left_out, -torch.inf)
            logits = logits.masked_fill(~has_any_R[:, None], 0.0)  # else a row of nothing has no gradient
            log_probabilities = F.log_softmax(logits, dim=1).masked_fill(~positives, 0.0)
            total = total - (targets * log_probabilities).sum()
        return total / heads

    return torch.stack(in_chunks(summed, len(text_RD), chunk)).sum() / len(text_RD)
