"""The second stage as the official evaluation computes it: one query at a time, its k candidates side by side.

Texts are padded to 64 tokens, an image's states are repeated for every pair, every pair projects its own keys and
values, and all tokens pass all layers. The best k by cosine get cosine + match score, all others -100.

Shapes: Q queries, G items, N pairs, S image tokens, T text tokens, V and W widths.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from albef_step import cross_encode
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput

PADDED = 64


def official_scores(
    model: R2D2Model, images: TowerOutput, texts: TowerOutput, by_text: bool, depth: int, queries: int | None = None
) -> Tensor:
    """(Q, G) scores of the first `queries` texts with all images, or of images with all texts."""
    texts_NTW, mask_NT = padded(texts)
    sides = (texts, images) if by_text else (images, texts)
    cosine_QG = (sides[0].embed @ sides[1].embed.T)[:queries]
    score_QG = torch.full_like(cosine_QG, -100.0)
    for query, cosine_G in enumerate(cosine_QG):
        top = cosine_G.topk(min(depth, len(cosine_G)))
        same = torch.full_like(top.indices, query)
        image_N, text_N = (top.indices, same) if by_text else (same, top.indices)
        probability_N = match_probability(model, images.states[image_N], texts_NTW[text_N], mask_NT[text_N])
        score_QG[query, top.indices] = top.values + probability_N
    return score_QG


def match_probability(model: R2D2Model, images_NSV: Tensor, texts_NTW: Tensor, mask_NT: Tensor) -> Tensor:
    """(N,) mean of both heads' match probabilities."""
    text_image = cross_encode(model.text_image_encoder, texts_NTW, mask_NT, images_NSV, None)
    image_text = cross_encode(model.image_text_encoder, model.image_to_cross(images_NSV), None, texts_NTW, mask_NT)
    heads = model.text_image_match(text_image[:, 0]), model.image_text_match(image_text[:, 0])
    return (heads[0].softmax(1)[:, 1] + heads[1].softmax(1)[:, 1]) / 2


def padded(texts: TowerOutput) -> tuple[Tensor, Tensor]:
    """States and mask of texts padded to 64 tokens."""
    assert texts.mask is not None
    missing = PADDED - texts.states.shape[1]
    return F.pad(texts.states, (0, 0, 0, missing)), F.pad(texts.mask, (0, missing))
