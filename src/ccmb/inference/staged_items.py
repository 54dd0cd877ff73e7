"""Items as two further stages read them: one that chooses candidates, and the last one.

Shapes: B items, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ccmb.inference.items import EncodedItems
from ccmb.inference.raw_items import join


@dataclass(frozen=True, slots=True)
class StagedItems:
    """B items, see `EncodedItems`.

    Attributes:
        chooser: what the stage in the middle reads of them.
        last: what the last stage reads of them; both have the first stage's embeddings.
    """

    chooser: EncodedItems
    last: EncodedItems

    @property
    def embed(self) -> Tensor:
        return self.last.embed

    def __len__(self) -> int:
        return len(self.last)

    def __getitem__(self, index: Tensor) -> StagedItems:
        return StagedItems(self.chooser[index], self.last[index])

    def embeds(self, rows: slice) -> Tensor:
        """(B, D) embeddings of a run of items."""
        return self.last.embeds(rows)

    def lengths(self, index: Tensor) -> Tensor:
        """(B,) real tokens, as the last stage counts them."""
        return self.last.lengths(index)

    @staticmethod
    def cat(parts: Sequence[StagedItems]) -> StagedItems:
        """Join batches."""
        return StagedItems(join([part.chooser for part in parts]), join([part.last for part in parts]))
