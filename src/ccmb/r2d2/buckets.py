"""Texts of like length computed together, so that little work goes into padding.

The batch stays one batch: only its rows are computed in up to K parts, each cut to its own longest text, and put back.
Reading the lengths waits for the device, so this is for CPUs.

Shapes: B texts of T tokens, N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

CALL_TOKENS = 64  # a further part must save more than this: what its calls cost, counted in tokens


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows that are computed together.

    Attributes:
        rows: (R,) which of the batch.
        tokens: of the longest of them.
    """

    rows: Tensor
    tokens: int

    def pairs(self, index_N: Tensor) -> tuple[Tensor, Tensor]:
        """Which of N pairs have their text `index_N` in this bucket, in order, and where in the bucket it is."""
        place_N = torch.searchsorted(self.rows, index_N).clamp(max=len(self.rows) - 1)
        pairs = (self.rows[place_N] == index_N).nonzero().squeeze(1)
        return pairs, place_N[pairs]


def make_buckets(mask_BT: Tensor, most: int) -> list[Bucket]:
    """At most `most` buckets of the texts whose real tokens `mask_BT` tells, with the least padding."""
    ends_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    lengths = (mask_BT.bool() * ends_T).amax(1).tolist()
    order = torch.tensor(sorted(range(len(lengths)), key=lengths.__getitem__), device=mask_BT.device)
    ordered = sorted(lengths)
    borders = [0, *cut(ordered, most, CALL_TOKENS)]
    return [Bucket(order[start:stop].sort().values, max(1, ordered[stop - 1])) for start, stop in pairwise(borders)]


def cut(lengths: Sequence[int], most: int, call_tokens: int) -> list[int]:
    """Where the parts of ascending lengths end (the last at their number): at most `most` parts, with the least
    computed tokens, each part counting `call_tokens` more."""
    # Parts of one length are never cut: only the last of each length can end a part.
    ends = [at + 1 for at, length in enumerate(lengths) if at + 1 == len(lengths) or lengths[at + 1] != length]
    # best[end]: the least cost of all up to `end` in so many parts, and where these end.
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    whole: list[tuple[int, list[int]]] = []
    for _ in range(most):
        best = {
            end: min(
                (cost + (end - start) * lengths[end - 1] + call_tokens, [*parts, end])
                for start, (cost, parts) in best.items()
                if start < end
            )
            for end in ends
            if any(start < end for start in best)
        }
        whole += [best[end] for end in ends[-1:] if end in best]
    return min(whole)[1]


def put_back(parts: Sequence[Tensor], rows: Sequence[Tensor], tokens: int | None = None) -> Tensor:
    """The parts as one tensor, each row where `rows` says; with `tokens`, dimension 1 is padded to so many by zeros."""
    if tokens is not None:
        parts = [F.pad(part, (0, 0, 0, tokens - part.shape[1])) for part in parts]
    return torch.cat(list(parts)).index_select(0, torch.cat(list(rows)).argsort())
