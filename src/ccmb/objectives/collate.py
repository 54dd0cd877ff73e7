"""Collate: training samples become the batches of the objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.data.equal_texts import known_texts, shared_texts, text_key
from ccmb.data.labelled_pairs import label_of
from ccmb.data.sample import Sample
from ccmb.data.states.store import StateStore, key_of
from ccmb.objectives.batch import Batch, LabelledBatch
from ccmb.r2d2.processing import R2D2Processor

# Pixels or a key of stored states, a text, and the index of the sample or id of the image; a streamed sample also has
# the ids of its texts.
Item = tuple[np.ndarray | bytes, str, int] | tuple[np.ndarray, str, int, tuple[int, ...]]


class Collate:
    """Collates training samples into a `Batch`, and lists the names of unreadable images.

    Args:
        samples: the samples that the items' indices point to; without them the items hold ids of images.

    Attributes:
        image_store: states of the images, whose keys the items hold in place of pixels.
        image_rows: how many rows of an image's states are read; None: all.
        text_store: states of the texts.
    """

    def __init__(self, processor: R2D2Processor, samples: list[Sample] | None = None) -> None:
        self.processor, self.samples = processor, samples
        self.image_store: StateStore | None = None
        self.image_rows: int | None = None
        self.text_store: StateStore | None = None
        self.image_ids: list[int] | None = None
        self.swapped_ids: list[int] | None = None
        self.shared: dict[int, tuple[int, ...]] = {}
        if samples is not None:
            # Samples of one image share an id, whatever line of the file they stand in.
            self.image_ids = _ids([sample.image for sample in samples])
            self.swapped_ids = _ids([_swapped_id(sample) for sample in samples])
            self.shared = shared_texts(samples)

    def __call__(self, items: Sequence[Item | str]) -> tuple[Batch | None, list[str]]:
        unreadable = [item for item in items if isinstance(item, str)]
        good = [item for item in items if not isinstance(item, str)]
        if not good:
            return None, unreadable
        pixels, texts, indices, *others = zip(*good, strict=True)
        known = others[0] if others else [self.shared.get(index, ()) for index in indices]
        encoded = self.processor.texts(texts)
        batch = Batch(
            pixel_values=self._pixel_values(pixels),
            image_rows=None if self.image_store is None else self.image_store.read(pixels, self.image_rows),
            text_rows=None if self.text_store is None else self.text_store.read(text_keys(encoded)),
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            maskable=self.processor.maskable(encoded["input_ids"]),
            image_ids=torch.tensor(
                [self.image_ids[index] for index in indices] if self.image_ids is not None else indices
            ),
            names=tuple(self.samples[index].image for index in indices) if self.samples is not None else (),
            texts=tuple(texts),
            swapped_ids=torch.tensor([self.swapped_ids[index] for index in indices])
            if self.swapped_ids is not None
            else None,
            text_ids=torch.tensor([known_texts(*of_pair) for of_pair in zip(texts, known, strict=True)]),
        )
        return batch, unreadable

    def _pixel_values(self, pixels: Sequence[Any]) -> Tensor:
        if self.image_store is not None:
            return torch.empty(len(pixels), 0)
        return self.processor.normalise(torch.from_numpy(np.stack(pixels)))

    def merge(self, parts: list[tuple[Batch | None, list[str]]]) -> tuple[Batch | None, list[str]]:
        """Join the parts of one batch, and their lists of unreadable images."""
        unreadable = [line for _, lines in parts for line in lines]
        batches = [batch for batch, _ in parts if batch is not None]
        if not batches:
            return None, unreadable
        return Batch.cat(batches, self.processor.tokenizer.pad_token_id), unreadable


def text_keys(encoded: Mapping[str, Tensor]) -> list[bytes]:
    """The keys of texts in a store, by their tokens; as `R2D2Processor.texts` gives them."""
    rows = zip(encoded["input_ids"].tolist(), encoded["attention_mask"].sum(1).tolist(), strict=True)
    return [key_of(",".join(map(str, ids[:length]))) for ids, length in rows]


def _swapped_id(sample: Sample) -> str:
    return sample.swapped_id or f"\0{sample.image}"


class LabelledCollate:
    """Collates labelled samples into a `LabelledBatch`, and lists the names of unreadable images."""

    def __init__(self, processor: R2D2Processor, samples: Sequence[Sample]) -> None:
        self.processor, self.samples = processor, samples
        self.image_ids = _ids([sample.image for sample in samples])
        self.text_ids = _ids([text_key(sample.texts[0]) for sample in samples])
        self.labels = [label_of(sample) for sample in samples]

    def __call__(self, items: list[tuple[np.ndarray, str, int] | str]) -> tuple[LabelledBatch | None, list[str]]:
        unreadable = list(dict.fromkeys(item for item in items if isinstance(item, str)))
        good = [item for item in items if not isinstance(item, str)]
        if not good:
            return None, unreadable
        pixels, texts, indices = zip(*good, strict=True)
        image_ids = [self.image_ids[index] for index in indices]
        image_index = _ids(image_ids)
        first = {index: row for row, index in reversed(list(enumerate(image_index)))}
        encoded = self.processor.texts(texts)
        batch = LabelledBatch(
            pixel_values=self.processor.normalise(
                torch.from_numpy(np.stack([pixels[first[index]] for index in sorted(first)]))
            ),
            image_index=torch.tensor(image_index),
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            labels=torch.tensor([self.labels[index] for index in indices]),
            image_ids=torch.tensor(image_ids),
            text_ids=torch.tensor([self.text_ids[index] for index in indices]),
            names=tuple(self.samples[index].image for index in indices),
            texts=tuple(texts),
        )
        return batch, unreadable


def _ids(values: Sequence[Any]) -> list[int]:
    """An id for each value, from 0 in the order in which values first come; equal values have equal ids."""
    id_of = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [id_of[value] for value in values]
