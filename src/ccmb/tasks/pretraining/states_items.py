"""The images and texts of a run, as the pass before it reads them; see `StatesPass`.

Shapes: B items, S pixels of a side, C colours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ccmb.data.images.source import ImageSource, UnreadableImageError
from ccmb.data.loader import TrainingSet, leave_signals_to_the_trainer, read_ahead
from ccmb.data.sample import Sample
from ccmb.data.states.images import StoredImages
from ccmb.objectives.collate import text_keys
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.boundary import Boundary
from ccmb.r2d2.towers.stillness import Frozen
from ccmb.r2d2.towers.stored import image_boundary, image_rows, text_boundary, text_rows
from ccmb.r2d2.towers.two_towers import fast_parts
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.states_pass import KeyedRows, StatesPass, Trained

BATCH = 128  # items that are computed at a time
READERS = 8  # threads that read files for their digests
TOKENIZED = 1024  # texts that are tokenized at a time

T = TypeVar("T")


class ImagePass(StatesPass):
    """The images of a run, each in all its views.

    Attributes:
        names: the images' keys by name.
    """

    name = "image"

    def __init__(
        self,
        trained: Trained,
        processor: R2D2Processor,
        recipe: PretrainRecipe,
        samples: list[Sample],
        source: ImageSource,
        depth: Frozen | None,
        tokens: bool,
    ) -> None:
        super().__init__(trained, processor, recipe, depth, tokens)
        augmentation = recipe.data.augmentation
        self.reader = TrainingSet(samples, source, processor.image_size, augmentation, recipe.training.seed)
        self.names = StoredImages({}, mirrors=augmentation.flip)
        self._items: dict[bytes, tuple[str, int, bool]] = {}

    def boundary(self, count: int) -> Boundary | None:
        return image_boundary(self.model, count, self.processor.image_size)

    def input(self) -> dict[str, Any]:
        augmentation, processor = self.recipe.data.augmentation, self.processor
        varied = {"augmentation": augmentation.model_dump(exclude={"num_views"})}
        size = processor.image_size, *processor.image_mean, *processor.image_std
        pooling = self.model.image_pooling, self.model.image_class_token
        return {"input": size, "pooling": pooling} | (varied if augmentation.num_views and augmentation.varies else {})

    def wanted(self) -> list[bytes]:
        samples = {(sample.image, self.reader.may_mirror(sample)) for sample in self.reader.samples}
        self._read_digests(sorted({name for name, _ in samples} - {*self.names.digests, *self.names.unreadable}))
        for name, may_mirror in sorted(samples):
            for view in range(self.recipe.data.augmentation.num_views or 1):
                key = self.names.key(name, view, may_mirror)
                if isinstance(key, bytes):
                    self._items[key] = name, view, may_mirror
        return [key for key, (name, _, _) in self._items.items() if name not in self.names.unreadable]

    def _read_digests(self, names: list[str]) -> None:
        def digest(name: str) -> bytes | str:
            try:
                return hashlib.sha256(self.reader.images.raw(name)).digest()
            except UnreadableImageError as error:
                return str(error)

        with ThreadPoolExecutor(READERS) as threads:
            for name, result in zip(names, threads.map(digest, names), strict=True):
                if isinstance(result, str):
                    self.names.unreadable[name] = result
                else:
                    self.names.digests[name] = result

    def batches(self, keys: Sequence[bytes]) -> Iterator[KeyedRows]:
        loader = DataLoader(
            _Pixels(self.reader, [(key, *self._items[key]) for key in keys]),
            batch_size=BATCH,
            collate_fn=list,
            num_workers=self.recipe.data.num_workers,
            worker_init_fn=leave_signals_to_the_trainer,
        )
        for batch in read_ahead(loader):
            self.names.unreadable |= {name: pixels for _, name, pixels in batch if isinstance(pixels, str)}
            if good := [(key, pixels) for key, _, pixels in batch if not isinstance(pixels, str)]:
                pixels_BSSC = torch.from_numpy(np.stack([pixels for _, pixels in good])).to(self.device)
                values = self.processor.normalise(pixels_BSSC).to(self.model.temperature.dtype)
                rows = torch.cat([image_rows(self.model, part, self.tokens) for part in fast_parts(values)])
                yield list(zip([key for key, _ in good], rows, strict=True))

    def count_rows(self, key: bytes, first: int) -> int:
        return first


class _Pixels(Dataset[tuple[bytes, str, np.ndarray | str]]):
    """The pixels of fixed views, or why an image cannot be read; each with its key and name."""

    def __init__(self, reader: TrainingSet, items: list[tuple[bytes, str, int, bool]]) -> None:
        self.reader, self.items = reader, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[bytes, str, np.ndarray | str]:
        key, name, view, may_mirror = self.items[index]
        try:
            return key, name, self.reader.fixed_pixels(name, view, may_mirror)
        except UnreadableImageError as error:
            return key, name, str(error)


class TextPass(StatesPass):
    """The texts of a run."""

    name = "text"

    def __init__(
        self,
        trained: Trained,
        processor: R2D2Processor,
        recipe: PretrainRecipe,
        texts: Iterable[str],
        depth: Frozen | None,
        tokens: bool,
    ) -> None:
        super().__init__(trained, processor, recipe, depth, tokens)
        self.texts = sorted(texts)
        self._tokens: dict[bytes, tuple[str, int]] = {}

    def boundary(self, count: int) -> Boundary | None:
        return text_boundary(self.model, count)

    def input(self) -> dict[str, Any]:
        return {"pooling": self.model.text_pooling}

    def wanted(self) -> list[bytes]:
        if not self._tokens:
            for some in _in_parts(self.texts, TOKENIZED):
                encoded = self.processor.texts(some)
                lengths = encoded["attention_mask"].sum(1).tolist()
                self._tokens |= dict(zip(text_keys(encoded), zip(some, lengths, strict=True), strict=True))
        return list(self._tokens)

    def batches(self, keys: Sequence[bytes]) -> Iterator[KeyedRows]:
        by_length = sorted(keys, key=lambda key: self._tokens[key][1])
        for some in _in_parts(by_length, BATCH):
            encoded = self.processor.texts([self._tokens[key][0] for key in some])
            ids, mask = (encoded[name].to(self.device) for name in ("input_ids", "attention_mask"))
            rows = text_rows(self.model, ids, mask, self.tokens)
            yield [(key, row[: self._tokens[key][1]]) for key, row in zip(some, rows, strict=True)]

    def count_rows(self, key: bytes, first: int) -> int:
        return self._tokens[key][1] if self.tokens else 1


def _in_parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
