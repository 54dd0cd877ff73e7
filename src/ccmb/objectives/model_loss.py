"""The loss that `R2D2Model.forward` returns to generic training loops: the two objectives of fine-tuning, GCPR and FGR.

Every process uses its own batch alone, and exchanges nothing with others.

Shapes: B pairs, T text tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.objectives.pre_ranking import gcpr_loss, multi_positive_targets, positive_mask, similarity
from ccmb.objectives.ranking import IGNORED, draw_pairs
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput


def model_loss(
    model: R2D2Model, images: TowerOutput, texts: TowerOutput, input_ids: Tensor, image_ids: Tensor | None = None
) -> Tensor:
    """GCPR plus FGR with equal weights (scalar) of B pairs; GCPR alone where the network cannot rank.

    FGR's hard negatives are sampled by torch's global generator in training, and by a fixed seed in evaluation.

    Args:
        input_ids: (B, T) equal texts are positives of each other.
        image_ids: (B,) samples with equal ids are positives of each other too; by default all images differ.
    """
    own = torch.arange(len(images), device=input_ids.device)
    positives = positive_mask(own if image_ids is None else image_ids)
    positives = positives | (input_ids[:, None] == input_ids[None]).all(2)
    loss = gcpr_loss(images.embed, texts.embed, model.temperature, multi_positive_targets(positives))
    if not model.can_rank:
        return loss
    with torch.no_grad():
        image_rows = similarity(images.embed, texts.embed, model.temperature)
    pairs = draw_pairs(image_rows, image_rows.T, positives, own, _uniform(model, own))
    ranked = model.rank(images, texts, pairs.image_index, pairs.text_index)
    weights = torch.tensor([1.0, 2.0], device=own.device, dtype=ranked.logits_text_image.dtype)
    for logits in (ranked.logits_text_image, ranked.logits_image_text):
        loss = loss + F.cross_entropy(logits, pairs.labels, weight=weights, ignore_index=IGNORED) / 2
    return loss


def _uniform(model: R2D2Model, own: Tensor) -> Tensor:
    """(B, 2) numbers in [0, 1)."""
    if model.training:
        return torch.rand(len(own), 2, device=own.device)
    return torch.rand(len(own), 2, generator=torch.Generator().manual_seed(0)).to(own.device)
