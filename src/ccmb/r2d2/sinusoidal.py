"""Sines and cosines as initial values of learned positions.

Towers trained from scratch on little data are slow to learn where things are, since random positions do not show which
patches are neighbours. With sines (Vaswani et al. 2017, arXiv 1706.03762), distances are there from the first step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(length: int, width: int, longest: float | None = None) -> Tensor:
    """(length, width) waves of wavelengths 4 to `longest` (by default 4 x length) positions, in [-1, 1].

    Width must be even.
    """
    wavelengths = torch.logspace(math.log10(4), math.log10(longest or 4 * length), width // 2)
    angles = 2 * math.pi * torch.arange(length)[:, None] / wavelengths
    return torch.cat([angles.sin(), angles.cos()], 1)


def grid_positions(side: int, width: int) -> Tensor:
    """(1 + side^2, width) positions of a square of patches: half of the width for the row, half for the column.

    The first token has no position, and gets zeros. Width must be a multiple of 4.
    """
    waves = sine_positions(side, width // 2)
    patches = torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], 1)
    return torch.cat([torch.zeros(1, width), patches])
