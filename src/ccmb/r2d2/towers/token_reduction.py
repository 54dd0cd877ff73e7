"""Token reduction: an image's tokens become a few weighted sums of them (Gu et al. 2022, Wukong, arXiv 2202.06767).

Shapes: B images, S tokens, N sums, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

GROUPS = 8  # of the convolutions


class TokenReduction(nn.Module):
    """N weighted sums of an image's tokens, with learned weights; as in Wukong's code, with its names."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        mixed = nn.Conv2d(width, width, 1, groups=GROUPS, bias=False)
        self.attention_maps = nn.Sequential(mixed, nn.Conv2d(width, tokens, 1, bias=False))
        self.feat_conv = nn.Conv2d(width, width, 1, groups=GROUPS, bias=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with sums of the tokens as they are, and with weights that differ a little by chance (our choice)."""
        mixed, maps = (cast(nn.Conv2d, layer) for layer in self.attention_maps)
        for convolution in (mixed, self.feat_conv):
            size = convolution.weight.shape[1]
            convolution.weight.copy_(torch.eye(size).repeat(GROUPS, 1)[..., None, None])
        nn.init.normal_(maps.weight, std=maps.in_channels**-0.5)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        """(B, N, D) of tokens in any order, for the convolutions look at one at a time."""
        weights = self.attention_maps(self.norm(tokens_BSD).transpose(1, 2)[..., None])[..., 0].softmax(-1)
        values = self.feat_conv(tokens_BSD.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        reduced: Tensor = weights @ values
        return reduced
