"""What one step of matching sees: labelled pairs of a picture and a text.

Shapes: B pairs in the batch, P pictures, T text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Pairs of which some may show the same picture, which is held once; all on the model's device.

    Attributes:
        pixel_values: (P, 3, S, S) normalised pictures.
        image_index: (B,) which of them each pair shows.
        input_ids, attention_mask: (B, T) the pairs' texts.
        labels: (B,) 1 where the text fits the picture, 0 where it does not.
        image_ids, text_ids: (B,) pairs with equal ids have the same picture or text, on all processes.
        names, texts: of the pairs, for whoever looks into a batch; may be left out.
    """

    pixel_values: Tensor
    image_index: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    image_ids: Tensor
    text_ids: Tensor
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> LabelledBatch:
        values = {name: getattr(self, name) for name in self.__slots__}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def rows(self, index: list[int]) -> LabelledBatch:
        """Some of the pairs, in this order, and the pictures that they show."""
        shown, image_index = self.image_index[index].unique(return_inverse=True)
        picked: dict[str, Any] = {
            name: getattr(self, name)[index]
            for name in ("input_ids", "attention_mask", "labels", "image_ids", "text_ids")
        }
        for name in ("names", "texts"):
            told = getattr(self, name)
            picked[name] = tuple(told[row] for row in index) if told else ()
        return LabelledBatch(self.pixel_values[shown], image_index, **picked)
