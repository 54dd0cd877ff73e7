"""What one step sees: pairs of an image and a text, for matching with labels.

Shapes: B pairs in the batch, P images, T text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.training.distributed import all_reduce_max


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step of pre-training sees; all on the model's device.

    Attributes:
        pixel_values: (B, 3, S, S) normalised images.
        input_ids, attention_mask: (B, T) texts.
        maskable: (B, T) True for real words.
        image_ids: (B,) samples with equal ids show the same image.
        swapped_ids: (B,) samples with equal ids are attribute-swapped counterparts, see `Sample.swapped_id`; None where
            nothing is known of them.
        names, texts: of the images and as written, for whoever looks into a batch; may be left out.
        text_ids: (B, W) first the number of each pair's text, then those of other texts that its image is known to
            have; -1 for none. Equal texts have equal numbers. None where nobody says: then tokens are compared.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    maskable: Tensor
    image_ids: Tensor
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    swapped_ids: Tensor | None = None
    text_ids: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        values = {name: getattr(self, name) for name in self.__slots__}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def describe(self) -> dict[str, Any]:
        """Which pairs these are, as plain values."""
        return {"image_ids": self.image_ids.tolist(), "names": list(self.names), "texts": list(self.texts)}

    def rows(self, index: list[int]) -> Batch:
        """Some of the pairs, in this order."""

        def pick(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(value[row] for row in index) if value else ()
            return None if value is None else value[index]

        return Batch(**{name: pick(getattr(self, name)) for name in self.__slots__})

    @staticmethod
    def cat(batches: list[Batch], pad_id: int) -> Batch:
        """Join batches; texts are padded to the longest of all with the token `pad_id`."""
        longest = max(batch.input_ids.shape[1] for batch in batches)
        padding = {"input_ids": pad_id, "attention_mask": 0, "maskable": 0}

        def join(name: str) -> Any:
            values = [getattr(batch, name) for batch in batches]
            if isinstance(values[0], tuple):
                return tuple(item for value in values for item in value)
            if values[0] is None:
                return None
            if name in padding:
                values = [F.pad(value, (0, longest - value.shape[1]), value=padding[name]) for value in values]
            return torch.cat(values)

        return Batch(**{name: join(name) for name in Batch.__slots__})


def pad_to_global_longest(batch: Batch) -> Batch:
    """The batch with its texts padded as on the process that has the longest, so that what is gathered fits together
    and what is drawn for a row is what one process would draw."""
    missing = all_reduce_max(batch.input_ids.shape[1]) - batch.input_ids.shape[1]
    if not missing:
        return batch
    padded: dict[str, Any] = {
        name: F.pad(getattr(batch, name), (0, missing)) for name in ("input_ids", "attention_mask", "maskable")
    }
    return replace(batch, **padded)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """What one step of matching sees; all on the model's device. Pairs may show the same image, which is held once.

    Attributes:
        pixel_values: (P, 3, S, S) normalised images.
        image_index: (B,) which of them each pair shows.
        input_ids, attention_mask: (B, T) the pairs' texts.
        labels: (B,) 1 where the text fits the image, 0 where it does not.
        image_ids, text_ids: (B,) pairs with equal ids have the same image or text, on all processes.
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
        """Some of the pairs, in this order, and the images that they show."""
        shown, image_index = self.image_index[index].unique(return_inverse=True)
        picked: dict[str, Any] = {
            name: getattr(self, name)[index]
            for name in ("input_ids", "attention_mask", "labels", "image_ids", "text_ids")
        }
        for name in ("names", "texts"):
            told = getattr(self, name)
            picked[name] = tuple(told[row] for row in index) if told else ()
        return LabelledBatch(pixel_values=self.pixel_values[shown], image_index=image_index, **picked)
