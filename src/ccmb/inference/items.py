"""Encoded images or texts, in memory or on disk, as the two stages read them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ccmb.r2d2.towers.two_towers import TowerOutput


class EncodedItems(Protocol):
    """The common interface of a `TowerOutput` and of a file of features (`ccmb.benchmark.evaluation.feature_cache`)."""

    @property
    def embed(self) -> Tensor:
        """(B, D) all embeddings."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> TowerOutput:
        """The items of these indices, with their token states."""

    def embeds(self, rows: slice) -> Tensor:
        """(B, D) embeddings of a run of items."""

    def lengths(self, index: Tensor) -> Tensor:
        """(B,) real tokens of the items of these indices."""
