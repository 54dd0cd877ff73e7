"""Short vectors in front of whole ones: a scan of a large index reads the first numbers of each vector alone.

A scan is as fast as memory is read. The best images by the cosine of the first numbers, normalised anew, are ordered by
that of all. What this loses depends on the model: those trained with `objectives.gcpr.prefixes`, or another way of
Matryoshka learning (Kusupati et al. 2022, arXiv 2205.13147), lose little.

Shapes: C rows, N of which count, Q queries, D and d widths.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.core.errors import UsageError

SHORTLIST = 10  # images that are ordered by whole vectors, for each that is asked for
MIN_SHORTLIST = 1000
WORTH = 4  # times as many images as the shortlist has; a smaller index is scanned by whole vectors


class CoarseVectors:
    """The short vectors of a memory store's rows."""

    def __init__(self, dim: int, whole: int) -> None:
        """No rows yet.

        Args:
            dim: d.
            whole: D.

        Raises:
            UsageError: d is not below D.
        """
        if not 0 < dim < whole:
            raise UsageError(f"--coarse-dim is {dim}; give a number below {whole}, which the index's vectors have")
        self.dim, self._short_Cd = dim, torch.empty(0, dim)

    def shortlist(self, k: int, count: int) -> int | None:
        """How many of `count` images to choose for the best k; None if whole vectors had better be scanned."""
        size = max(MIN_SHORTLIST, SHORTLIST * k)
        return size if count > WORTH * size else None

    def reserve(self, capacity: int, count: int) -> None:
        """Make room for rows, of which the first `count` are kept."""
        grown_Cd = torch.empty(capacity, self.dim)
        grown_Cd[:count] = self._short_Cd[:count]
        self._short_Cd = grown_Cd

    def put(self, rows: slice | list[int], embed_BD: Tensor) -> None:
        """Set rows by their whole vectors."""
        self._short_Cd[rows] = self._shortened(embed_BD)

    def move(self, old: int, new: int) -> None:
        """Set a row to another's vector."""
        self._short_Cd[new] = self._short_Cd[old]

    def scan(self, query_QD: Tensor, count: int) -> Tensor:
        """(Q, N) cosines of the short vectors."""
        short_Qd = self._shortened(query_QD)
        if len(short_Qd) == 1:  # one query is multiplied as a vector, which reads the matrix only once
            return (self._short_Cd[:count] @ short_Qd[0])[None]
        return short_Qd @ self._short_Cd[:count].T

    def _shortened(self, embed_BD: Tensor) -> Tensor:
        return F.normalize(embed_BD[:, : self.dim].float(), dim=1)
