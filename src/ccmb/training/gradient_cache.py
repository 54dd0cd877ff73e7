"""Gradient caching: large batches on small memory, in chunks whose activations are recomputed in the backward pass.

The loss sees the whole batch and its gradient is exact, as in gradient caching (Gao et al. 2021, arXiv 2101.06983):
only the outputs of all chunks and the activations of one are held at a time. It costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def in_chunks(compute: Callable[[slice], T], count: int, size: int | None) -> list[T]:
    """Apply `compute` to `count` rows, at most `size` at a time and in order; to all at once where `size` is None.

    Random numbers inside `compute` must come from torch's global generators: their states are restored for the repeat.
    """
    if size is None or size >= count or not torch.is_grad_enabled():
        step = size or max(1, count)
        return [compute(slice(start, start + step)) for start in range(0, count, step)]
    return [checkpoint(compute, slice(start, start + size), use_reentrant=False) for start in range(0, count, size)]
