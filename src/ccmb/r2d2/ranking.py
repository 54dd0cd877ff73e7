"""Match scores of many pairs: what the second stage of evaluation and of search have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from ccmb.r2d2.modeling import R2D2Model, TowerOutput


def rank_pairs(
    model: R2D2Model,
    images: TowerOutput,
    texts: TowerOutput,
    image_index_N: Tensor,
    text_index_N: Tensor,
    batch: int = 2048,
) -> Tensor:
    """Match scores (N,) of pairs picked by index, in batches that send only the items they need."""
    scores = []
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
        scores.append(output.score.cpu())
    return torch.cat(scores)
