"""The pass before a training in which frozen towers compute the states that are stored.

Shapes: B items, R rows that are stored of an item, W their width.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ccmb.core.device import computes_bf16, inference, precision
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.hashing import sha256_of_json
from ccmb.core.progress import Advance
from ccmb.data.states.rows import bytes_of
from ccmb.data.states.store import FILE_BYTES, StateStore
from ccmb.objectives.distillation import EmaTeacher
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.boundary import Boundary
from ccmb.r2d2.towers.stillness import Frozen, frozen_tensors
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.training.distributed import all_reduce_max, barrier

FORM = 1  # of what is stored; another number leaves all caches behind
STORED_AS = torch.float16
PROBED = 8  # items of which one is computed to know its size

KeyedRows = list[tuple[bytes, Tensor]]


class Trained(Protocol):
    """What is trained: a network, and its teacher if it has one."""

    @property
    def model(self) -> R2D2Model:
        """The network."""

    @property
    def teacher(self) -> EmaTeacher | None:
        """What has the same towers where they are frozen."""


class StatesPass(ABC):
    """What one tower's states depend on, and how they are computed.

    Args:
        depth: how much of the tower is frozen.
        tokens: whether the token states are stored, and not the pooled state alone.
    """

    name: str

    def __init__(
        self,
        trained: Trained,
        processor: R2D2Processor,
        recipe: PretrainRecipe,
        depth: Frozen | None,
        tokens: bool,
    ) -> None:
        self.trained, self.model, self.processor = trained, trained.model, processor
        self.recipe, self.depth, self.dtype = recipe, depth, STORED_AS
        self.tokens = tokens or depth != "all"

    @property
    def tower(self) -> nn.Module:
        return self.model.get_submodule(f"{self.name}_tower")

    @property
    def device(self) -> torch.device:
        return self.model.temperature.device

    def find_boundary(self) -> None:
        """Let student and teacher take up the tower above its frozen layers.

        Raises:
            UsageError: this tower cannot be taken up there.
        """
        if self.depth == "all" or self.depth is None:
            return
        with inference(self.model):
            boundary = self.boundary(self.depth)
        if boundary is None:
            kind = self.model.config.to_dict()[f"{'vision' if self.name == 'image' else 'text'}_config"]["model_type"]
            raise UsageError(f"a tower of the kind {kind} cannot be taken up after {self.depth} layers")
        self._set(boundary)

    def leave(self) -> None:
        """Compute the whole tower."""
        self._set(None)

    def _set(self, boundary: Boundary | None) -> None:
        for towers in (self.model, self.trained.teacher):
            if towers is not None:
                setattr(towers, f"{self.name}_boundary", boundary)

    def key(self) -> str:
        """What the states depend on besides the items."""
        digest = hashlib.sha256()
        for name, tensor in sorted(frozen_tensors(self.tower).items()):
            digest.update(name.encode())
            digest.update(bytes_of(tensor.cpu()))
        tower: Any = self.tower
        config = tower.config.to_dict()
        for passing in ("_name_or_path", "transformers_version"):
            config.pop(passing, None)
        bf16 = computes_bf16(self.device, self.recipe.training.precision)
        parts = {
            "form": FORM, "weights": digest.hexdigest(), "config": repr(sorted(config.items(), key=str)),
            "depth": self.depth, "tokens": self.tokens, "bf16": bf16, "dtype": str(self.dtype),
        }  # fmt: skip
        return sha256_of_json(parts | self.input())[:32]

    def compute(self, keys: Sequence[bytes], advance: Advance) -> Iterator[KeyedRows]:
        """The rows (R, W) of the items with these keys, batch by batch; unreadable ones are left out."""
        batches = self.batches(keys)
        while True:
            with inference(self.model), precision(self.device, self.recipe.training.precision):
                items = next(batches, None)
            if items is None:
                return
            # Outside: what stores the rows must not compute in the network's precision.
            yield [(key, rows.to(self.dtype).cpu()) for key, rows in items]
            advance(len(items))

    def size(self, keys: Sequence[bytes]) -> int:
        """Bytes that the items with these keys will take, by the first that can be computed."""
        first = next((items[0] for items in self.compute(keys[:PROBED], _nothing) if items), None)
        if first is None:
            return 0
        width = first[1].shape[1] * self.dtype.itemsize
        return sum(self.count_rows(key, len(first[1])) for key in keys) * width

    @abstractmethod
    def boundary(self, count: int) -> Boundary | None:
        """See `ccmb.r2d2.towers.boundary.find_boundary`."""

    @abstractmethod
    def input(self) -> dict[str, Any]:
        """How what the tower reads is made of the items."""

    @abstractmethod
    def wanted(self) -> list[bytes]:
        """Keys of all items that the run may read, but those known to be unreadable."""

    @abstractmethod
    def batches(self, keys: Sequence[bytes]) -> Iterator[KeyedRows]:
        """The rows of items as the tower gives them."""

    @abstractmethod
    def count_rows(self, key: bytes, first: int) -> int:
        """R of an item, if the first one has so many."""


def fill(store: StateStore, states: StatesPass, wanted: Sequence[bytes], advance: Advance) -> str | None:
    """Compute and store what is missing; all ranks of a machine share the work.

    Returns:
        Why it could not be done, on all ranks if on one; None if it was.
    """
    rank, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    is_first = True
    while all_reduce_max(len(missing := store.missing(wanted))):
        own = missing[rank % size :: size] if is_first else missing  # what another could not read, each reads itself
        reason = _write(store, states.compute(own, advance))
        if all_reduce_max(int(reason is not None)):
            return reason or "another process could not store its states"
        barrier()
        store.refresh()
        wanted, is_first = states.wanted(), False
    return None


def _write(store: StateStore, batches: Iterable[KeyedRows]) -> str | None:
    """Store items in files of FILE_BYTES; why not all of them, or None."""
    gathered, size = KeyedRows(), 0
    try:
        for items in batches:
            if not all(bool(rows.isfinite().all()) for _, rows in items):
                return f"some of its states are too large for {str(STORED_AS).removeprefix('torch.')}"
            gathered += items
            size += sum(rows.numel() * rows.itemsize for _, rows in items)
            if size >= FILE_BYTES:
                store.write(gathered)
                gathered, size = KeyedRows(), 0
        if gathered:
            store.write(gathered)
    except CcmbError as error:
        return str(error)
    return None


def _nothing(count: int = 1, note: str = "") -> None:
    """No progress."""
