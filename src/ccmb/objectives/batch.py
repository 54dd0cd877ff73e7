"""Batches, what one training step sees: pairs of an image and a text, and pairs with labels.

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
    """Pairs of an image and a text for one step of pre-training; all tensors are on the model's device.

    Attributes:
        pixel_values: (B, 3, S, S) normalised images.
        input_ids, attention_mask: (B, T) texts.
        maskable: (B, T) True for real words.
        image_ids: (B,) samples with equal ids show the same image.
        swapped_ids: (B,) samples with equal ids are attribute-swapped counterparts, see `Sample.swapped_id`; None where
            nothing is known of them.
        names, texts: the images' names and the texts as written, for inspection; may be left out.
        text_ids: (B, W) first the id of each pair's text, then the ids of other texts that its image is known to have;
            -1 for none. Equal texts have equal ids. None where ids are unknown: then tokens are compared.
        image_rows: (B, R, W) stored states of the images, see `ccmb.r2d2.towers.stored`; `pixel_values` is empty then.
        text_rows: (B, T, W) stored states of the texts, or (B, 1, W).
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
    image_rows: Tensor | None = None
    text_rows: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        values = {name: getattr(self, name) for name in self.__slots__}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def describe(self) -> dict[str, Any]:
        """The pairs' image ids, names and texts as plain values."""
        return {"image_ids": self.image_ids.tolist(), "names": list(self.names), "texts": list(self.texts)}

    def rows(self, index: list[int]) -> Batch:
        """The pairs at these indices, in this order."""

        def pick(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(value[row] for row in index) if value else ()
            return None if value is None else value[index]

        return Batch(**{name: pick(getattr(self, name)) for name in self.__slots__})

    @staticmethod
    def cat(batches: list[Batch], pad_id: int) -> Batch:
        """Join batches; texts are padded with the token `pad_id` to the longest of all."""
        longest = max(batch.input_ids.shape[1] for batch in batches)
        padding = {"input_ids": pad_id, "attention_mask": 0, "maskable": 0}

        def join(name: str) -> Any:
            values = [getattr(batch, name) for batch in batches]
            if isinstance(values[0], tuple):
                return tuple(item for value in values for item in value)
            if values[0] is None:
                return None
            if name == "text_rows":
                values = [_padded_rows(value, longest) for value in values]
            elif name in padding:
                values = [F.pad(value, (0, longest - value.shape[1]), value=padding[name]) for value in values]
            return torch.cat(values)

        return Batch(**{name: join(name) for name in Batch.__slots__})


def pad_to_global_longest(batch: Batch) -> Batch:
    """Pad the batch's texts to the longest text of all processes.

    Gathered tensors then have one shape, and the random numbers of a row are those that one process would draw.
    """
    missing = all_reduce_max(batch.input_ids.shape[1]) - batch.input_ids.shape[1]
    if not missing:
        return batch
    padded: dict[str, Any] = {
        name: F.pad(getattr(batch, name), (0, missing)) for name in ("input_ids", "attention_mask", "maskable")
    }
    if batch.text_rows is not None:
        padded["text_rows"] = _padded_rows(batch.text_rows, batch.input_ids.shape[1] + missing)
    return replace(batch, **padded)


def _padded_rows(rows_BTW: Tensor, tokens: int) -> Tensor:
    """Stored states of texts, padded to so many tokens; a single row stays one."""
    missing = tokens - rows_BTW.shape[1]
    return rows_BTW if rows_BTW.shape[1] == 1 else F.pad(rows_BTW, (0, 0, 0, missing))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """Labelled pairs for one step of matching; all tensors are on the model's device.

    An image that several pairs show is held once.

    Attributes:
        pixel_values: (P, 3, S, S) normalised images.
        image_index: (B,) the row of `pixel_values` that each pair shows.
        input_ids, attention_mask: (B, T) the pairs' texts.
        labels: (B,) 1 where the text fits the image, 0 where it does not.
        image_ids, text_ids: (B,) pairs with equal ids have the same image or text, on all processes.
        names, texts: of the pairs, for inspection; may be left out.
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
        """The pairs at these indices, in this order, and the images that they show."""
        shown, image_index = self.image_index[index].unique(return_inverse=True)
        picked: dict[str, Any] = {
            name: getattr(self, name)[index]
            for name in ("input_ids", "attention_mask", "labels", "image_ids", "text_ids")
        }
        for name in ("names", "texts"):
            values = getattr(self, name)
            picked[name] = tuple(values[row] for row in index) if values else ()
        return LabelledBatch(pixel_values=self.pixel_values[shown], image_index=image_index, **picked)
