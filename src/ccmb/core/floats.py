"""Floating-point types: what half precision is widened to, and what float64 stays."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor as float32; a float64 tensor stays as it is.

    Losses, norms and unit vectors of half precision need float32. Proofs of equality use a network in float64, which
    must keep its digits.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def as_default_float(tensor: Tensor) -> Tensor:
    """Booleans or counts as floats of torch's default type, as `torch.zeros` and `torch.rand` make them."""
    return tensor.to(torch.get_default_dtype())
