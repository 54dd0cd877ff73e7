"""Texts and images as they are, beside their embeddings: what a second stage reads that encodes nothing by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ccmb.inference.items import EncodedItems
from ccmb.r2d2.towers.two_towers import TowerOutput

RawImage = Image.Image | Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class RawItems:
    """B items, see `EncodedItems`.

    Attributes:
        encoded: the first stage's embeddings of them.
        raw: B texts, or images; a function opens an image when it is needed, so that memory holds few.
    """

    encoded: EncodedItems
    raw: Sequence[Any]

    @property
    def embed(self) -> Tensor:
        return self.encoded.embed

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: Tensor | slice) -> RawItems:
        rows = torch.arange(len(self))[index].tolist()
        return RawItems(self.encoded[torch.tensor(rows, dtype=torch.long)], [self.raw[row] for row in rows])

    def embeds(self, rows: slice) -> Tensor:
        return self.encoded.embeds(rows)

    def lengths(self, index: Tensor) -> Tensor:
        return torch.zeros_like(index)

    @staticmethod
    def cat(parts: Sequence[RawItems]) -> RawItems:
        """Join batches."""
        embed_BD = torch.cat([part.embed for part in parts])
        return RawItems(no_states(embed_BD), [item for part in parts for item in part.raw])


def no_states(embed_BD: Tensor) -> TowerOutput:
    """Embeddings alone, without token states."""
    return TowerOutput(embed_BD, torch.empty(len(embed_BD), 0, 0))


def join(parts: Sequence[Any]) -> Any:
    """Join batches of one kind of items: of a `TowerOutput`, or of `RawItems`."""
    return type(parts[0]).cat(list(parts))


def open_raw(image: RawImage) -> Image.Image:
    """The image itself."""
    return image() if callable(image) else image
