"""Late interaction: a pair's score from the cosines of its tokens, each token with its best partner.

From image to text: the mean over image tokens of the best cosine with a text token; from text to image: the mean over
real text tokens of the best cosine with an image token (Yao et al. 2021, FILIP, arXiv 2111.07783; Gu et al. 2022,
Wukong, arXiv 2202.06767). The score of a pair is the mean of both.

Shapes: N pairs, S image tokens, T text tokens, D width; B items of any number of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccmb.core.choices import Padding
from ccmb.core.floats import at_least_float32
from ccmb.r2d2.towers.two_towers import l2_normalize


def directed_scores(
    image_NSD: Tensor, text_NTD: Tensor, text_mask_NT: Tensor, padding: Padding = "exact"
) -> tuple[Tensor, Tensor]:
    """(N,) scores from image to text, and (N,) from text to image, of pairs of L2-normalised tokens.

    Args:
        text_mask_NT: 1 at real tokens, of which each text has one or more.
        padding: how a text's padding counts for the tokens of an image, see `ccmb.core.choices`.
    """
    cosine_NST = at_least_float32(image_NSD) @ at_least_float32(text_NTD).transpose(1, 2)
    real_N1T = text_mask_NT.bool()[:, None]
    padded = 0.0 if padding == "official" else -torch.inf
    to_text_N = cosine_NST.masked_fill(~real_N1T, padded).amax(2).mean(1)
    best_NT = cosine_NST.amax(1)
    mask_NT = text_mask_NT.to(best_NT.dtype)
    return to_text_N, (best_NT * mask_NT).sum(1) / mask_NT.sum(1)


def as_int8(tokens_BSD: Tensor) -> Tensor:
    """Unit vectors as whole numbers of one byte; see `from_int8`."""
    largest_BS1 = tokens_BSD.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(tokens_BSD.dtype).tiny)
    return (tokens_BSD / largest_BS1 * 127).round().to(torch.int8)


def from_int8(tokens_BSD: Tensor) -> Tensor:
    """Unit vectors of such whole numbers. Their length says nothing, so that no scale is kept beside them."""
    return l2_normalize(tokens_BSD)


def late_scores(image_NSD: Tensor, text_NTD: Tensor, text_mask_NT: Tensor, padding: Padding = "exact") -> Tensor:
    """(N,) the mean of both directed scores."""
    to_text_N, to_image_N = directed_scores(image_NSD, text_NTD, text_mask_NT, padding)
    return (to_text_N + to_image_N) / 2
