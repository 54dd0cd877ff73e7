"""A cache of images' token states, so that the second stage need not read and encode a candidate again.

The states are many times larger than the embeddings (in float16: 76 KB an image for ViT-Ti/16 at 224 pixels, 303 KB for
ViT-B/16), so both caches are bounded. The memory drops the least recently used states; the index stores states until
the room that indexing was given is full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set

import torch
from torch import Tensor

from ccmb.search.blob_store import BlobStore
from ccmb.search.vector_store import Entry


def pack_states(entry: Entry, states_SW: Tensor) -> bytes:
    """The states as bytes, preceded by the digest of their image."""
    return entry.digest.encode() + _kept(states_SW).numpy().tobytes()


def unpack_states(entry: Entry, data: bytes, width: int, dtype: torch.dtype = torch.float16) -> Tensor | None:
    """The states (S, W); None if the image has changed since they were packed."""
    head = entry.digest.encode()
    if not head or not data.startswith(head) or (len(data) - len(head)) % (dtype.itemsize * width):
        return None
    return torch.frombuffer(bytearray(data[len(head) :]), dtype=dtype).view(-1, width)


def _kept(states_SW: Tensor) -> Tensor:
    """The states in float16, or as they are where a number is a byte."""
    return states_SW.cpu() if states_SW.dtype == torch.int8 else states_SW.to("cpu", torch.float16)


class StateCache:
    """The states (S, W) of images: in memory, and behind that in the index.

    Args:
        blob_store: the index's; None if it has none of this model.
        max_bytes: in memory.
        width: W of the image tower.
        dtype: that they are kept in, float16 or int8.
    """

    def __init__(
        self, blob_store: BlobStore | None, width: int, max_bytes: int, dtype: torch.dtype = torch.float16
    ) -> None:
        self.blob_store, self.width, self.max_bytes, self.dtype = blob_store, width, max_bytes, dtype
        self.bytes = 0
        self._held: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    def get(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """The states of the images that have any, by key."""
        states: dict[str, Tensor] = {}
        for entry in entries:
            mark = (entry.key, entry.stamp)
            if mark in self._held:
                self._held.move_to_end(mark)
                states[entry.key] = self._held[mark]
        missing = {entry.key: entry for entry in entries if entry.key not in states}
        for key, data in (self.blob_store.get(list(missing)) if self.blob_store else {}).items():
            states_SW = unpack_states(missing[key], data, self.width, self.dtype)
            if states_SW is not None:
                states[key] = states_SW
                self.put(missing[key], states_SW)
        return states

    def has(self, entries: Sequence[Entry]) -> list[bool]:
        """Whether each image has states, as it was when it was indexed."""
        unheld = [entry.key for entry in entries if (entry.key, entry.stamp) not in self._held]
        behind = self.blob_store.keys(unheld) if self.blob_store else set[str]()
        return [(entry.key, entry.stamp) in self._held or entry.key in behind for entry in entries]

    def put(self, entry: Entry, states_SW: Tensor) -> None:
        """Keep an image's states in memory; the least recently used states make room."""
        mark, half = (entry.key, entry.stamp), _kept(states_SW)
        if mark in self._held or half.nbytes > self.max_bytes:
            return
        self._held[mark] = half.clone() if half._base is not None else half  # a view would keep its whole batch
        self.bytes += half.nbytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._held.popitem(last=False)[1].nbytes

    def drop(self, keys: Set[str]) -> None:
        """Forget images that have left the index, so that they no longer take room."""
        for mark in [mark for mark in self._held if mark[0] in keys]:
            self.bytes -= self._held.pop(mark).nbytes
