"""Samples to the batches of the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ccmb.data.equal_texts import known_texts, shared_texts, text_key
from ccmb.data.labelled_pairs import label_of
from ccmb.data.sample import Sample
from ccmb.objectives.batch import Batch, LabelledBatch
from ccmb.r2d2.processing import R2D2Processor

# Pixels, a text, the number of the sample or image, and of streamed samples the numbers of all their texts.
Item = tuple[np.ndarray, str, int] | tuple[np.ndarray, str, int, tuple[int, ...]]


class Collate:
    """Training samples to a Batch; images that could not be read are set aside by name.

    Args:
        samples: to which the numbers of the items point; without them these are ids of images.
    """

    def __init__(self, processor: R2D2Processor, samples: list[Sample] | None = None) -> None:
        self.processor, self.samples = processor, samples
        self.image_ids: list[int] | None = None
        self.swapped_ids: list[int] | None = None
        self.shared: dict[int, tuple[int, ...]] = {}
        if samples is not None:
            # Samples of one image share an id, whatever line of the file they stand in.
            names = {name: number for number, name in enumerate(dict.fromkeys(sample.image for sample in samples))}
            self.image_ids = [names[sample.image] for sample in samples]
            id_of_swapped = {
                swapped_id: number for number, swapped_id in enumerate(dict.fromkeys(map(_swapped_id, samples)))
            }
            self.swapped_ids = [id_of_swapped[_swapped_id(sample)] for sample in samples]
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
            pixel_values=self.processor.normalise(torch.from_numpy(np.stack(pixels))),
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

    def merge(self, parts: list[tuple[Batch | None, list[str]]]) -> tuple[Batch | None, list[str]]:
        """The batch whose samples were collated in several parts."""
        unreadable = [line for _, lines in parts for line in lines]
        batches = [batch for batch, _ in parts if batch is not None]
        if not batches:
            return None, unreadable
        return Batch.cat(batches, self.processor.tokenizer.pad_token_id), unreadable


def _swapped_id(sample: Sample) -> str:
    return sample.swapped_id or f"\0{sample.image}"


class LabelledCollate:
    """Training samples to a LabelledBatch; images that could not be read are set aside by name."""

    def __init__(self, processor: R2D2Processor, samples: Sequence[Sample]) -> None:
        self.processor, self.samples = processor, samples
        self.image_ids = _numbers([sample.image for sample in samples])
        self.text_ids = _numbers([text_key(sample.texts[0]) for sample in samples])
        self.labels = [label_of(sample) for sample in samples]

    def __call__(self, items: list[tuple[np.ndarray, str, int] | str]) -> tuple[LabelledBatch | None, list[str]]:
        unreadable = list(dict.fromkeys(item for item in items if isinstance(item, str)))
        good = [item for item in items if not isinstance(item, str)]
        if not good:
            return None, unreadable
        pixels, texts, indices = zip(*good, strict=True)
        image_ids = [self.image_ids[index] for index in indices]
        place = _numbers(image_ids)
        first = {number: row for row, number in reversed(list(enumerate(place)))}
        encoded = self.processor.texts(texts)
        batch = LabelledBatch(
            pixel_values=self.processor.normalise(
                torch.from_numpy(np.stack([pixels[first[p]] for p in sorted(first)]))
            ),
            image_index=torch.tensor(place),
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            labels=torch.tensor([self.labels[index] for index in indices]),
            image_ids=torch.tensor(image_ids),
            text_ids=torch.tensor([self.text_ids[index] for index in indices]),
            names=tuple(self.samples[index].image for index in indices),
            texts=tuple(texts),
        )
        return batch, unreadable


def _numbers(values: Sequence[Any]) -> list[int]:
    """A number for each value, the same for equal ones, from 0 in the order in which they first come."""
    number_of = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [number_of[value] for value in values]
