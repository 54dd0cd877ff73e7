"""Encoded images or texts, in memory or on disk, as the two stages read them."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class EncodedItems(Protocol):
    """The common interface of a `TowerOutput`, of a file of features (`ccmb.benchmark.evaluation.feature_cache`) and of
    texts and images themselves (`ccmb.inference.raw_items`)."""

    @property
    def embed(self) -> Tensor:
        """(B, D) all embeddings."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Any:
        """The items of these indices, with what the second stage reads: token states, or texts and images."""

    def embeds(self, rows: slice) -> Tensor:
        """(B, D) embeddings of a run of items."""

    def lengths(self, index: Tensor) -> Tensor:
        """(B,) real tokens of the items of these indices."""
