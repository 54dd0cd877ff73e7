"""The feature cache: encoded galleries on disk, so that a stopped or repeated measurement does not encode again.

A file belongs to one model and one set. It is safetensors, and holds for images and for texts: `embed` (items, D);
`states` (tokens, W), one item after the other without padding; and `starts` and `lengths` (items,), the rows of each
item in `states`. The file is written while the gallery is encoded, and read item by item, so that memory does not grow
with the token states.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_path
from ccmb.core.progress import progress
from ccmb.data.states.rows import TYPES, bytes_of, open_rows
from ccmb.inference.gallery import Gallery, image_batches, text_batches
from ccmb.inference.stages import ImageLoader, SetEncoder
from ccmb.r2d2.towers.two_towers import TowerOutput

MAX_BYTES = 4 * 2**30  # larger files are deleted after use
HEADER = 4096  # bytes kept for it, since it is written last


def store_gallery(
    path: Path, encoder: SetEncoder, images: Sequence[Any], texts: Sequence[str], load: ImageLoader, batch: int = 128
) -> dict[str, float]:
    """Encode images and texts into a file, and return the seconds of each side.

    Raises:
        CcmbError: the disk is full or not writable; the message names the file.
    """
    with (
        torch.inference_mode(),
        progress("encode", len(images) + len(texts), "items") as advance,
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
    ):
        writer = _Writer(file, {"images": len(images), "texts": len(texts)})
        started = time.monotonic()
        writer.write("images", _in_order(image_batches(encoder, images, load, batch, advance)))
        between = time.monotonic()
        writer.write("texts", text_batches(encoder, texts, batch, advance))
        ended = time.monotonic()
        writer.finish()
    return {"images": between - started, "texts": ended - between}


def open_gallery(path: Path, count: int, image_of_text: Tensor, pairs: Tensor | None = None) -> Gallery | None:
    """The gallery of `count` images in a file; None if there is no file, or it is damaged or of another size."""
    # Whatever a damaged header leads to.
    with suppress(CcmbError, OSError, ValueError, KeyError, TypeError, AttributeError):
        images, texts = (StoredItems(path, side) for side in ("images", "texts"))
        if len(images) == count and len(texts) == len(image_of_text):
            return Gallery(images, texts, image_of_text, pairs)
    return None


def discard_if_large(path: Path) -> None:
    """Delete a file that is too large to be kept."""
    if path.stat().st_size > MAX_BYTES:
        path.unlink()


class StoredItems:
    """One side of a stored gallery, as `ccmb.inference.items.EncodedItems`."""

    def __init__(self, path: Path, side: str) -> None:
        """Open a file.

        Raises:
            CcmbError, OSError, ValueError, KeyError, TypeError, AttributeError: it is not there, or not whole.
        """
        self._file, tensors = open_rows(path)
        self._embed, self._states, starts, lengths = (
            tensors[f"{side}.{part}"] for part in ("embed", "states", "starts", "lengths")
        )
        self._starts, self._lengths = (rows.read(0, len(rows)) for rows in (starts, lengths))
        self._padded = len(self) > 0 and bool((self._lengths != self._lengths[0]).any())

    @property
    def embed(self) -> Tensor:
        return self.embeds(slice(None))

    def __len__(self) -> int:
        return len(self._embed)

    def __getitem__(self, index: Tensor) -> TowerOutput:
        lengths_B = self._lengths[index]
        embed_BD, states_BTW = self._embed.new(len(index)), self._states.new(len(index), int(lengths_B.max()))
        columns = index.tolist(), self._starts[index].tolist(), lengths_B.tolist()
        for row, (item, start, length) in enumerate(zip(*columns, strict=True)):
            self._embed.read_into(embed_BD[row, None], item)
            self._states.read_into(states_BTW[row, :length], start)
        mask_BT = (torch.arange(states_BTW.shape[1]) < lengths_B[:, None]).long() if self._padded else None
        return TowerOutput(embed_BD, states_BTW, mask_BT)

    def embeds(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(len(self))
        return self._embed.read(start, stop - start)

    def lengths(self, index: Tensor) -> Tensor:
        return self._lengths[index]


class _Writer:
    """Writes a safetensors file whose sizes are known only at its end.

    Integers come first in the file, since safetensors wants them at multiples of eight bytes. They are written last, as
    is the header.
    """

    def __init__(self, file: IO[bytes], counts: Mapping[str, int]) -> None:
        """Reserve room for the header and the index; `counts` has the number of items of each side."""
        self._file, self._header, self._end = file, dict[str, dict[str, Any]](), 0
        self._positions = {f"{side}.{part}": torch.zeros(count, dtype=torch.long)
                        for side, count in counts.items() for part in ("starts", "lengths")}  # fmt: skip
        for name, positions in self._positions.items():
            self._enter(name, positions.dtype, positions.shape)
        file.seek(HEADER + self._end)

    def write(self, side: str, batches: Iterator[tuple[Tensor, TowerOutput]]) -> None:
        """Write items that come in any order, each with its index in the gallery; padding is left out."""
        starts, lengths = self._positions[f"{side}.starts"], self._positions[f"{side}.lengths"]
        embed_ND, tokens = torch.empty(0), 0
        for index_B, items in batches:
            if not len(embed_ND):
                embed_ND = items.embed.new_empty(len(starts), items.embed.shape[1])
            embed_ND[index_B] = items.embed
            lengths_B = items.lengths(torch.arange(len(items)))
            starts[index_B], lengths[index_B] = tokens + lengths_B.cumsum(0) - lengths_B, lengths_B
            real_BT = torch.arange(items.states.shape[1]) < lengths_B[:, None]
            states_NW = items.states[real_BT]
            self._file.write(bytes_of(states_NW))
            tokens += len(states_NW)
        self._enter(f"{side}.states", states_NW.dtype, (tokens, states_NW.shape[1]))
        self._file.write(bytes_of(embed_ND))
        self._enter(f"{side}.embed", embed_ND.dtype, embed_ND.shape)

    def finish(self) -> None:
        self._file.seek(HEADER)
        for positions in self._positions.values():
            self._file.write(bytes_of(positions))
        header = json.dumps(self._header).encode().ljust(HEADER - 8)
        self._file.seek(0)
        self._file.write(len(header).to_bytes(8, "little") + header)

    def _enter(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
        start, self._end = self._end, self._end + dtype.itemsize * math.prod(shape)
        self._header[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [start, self._end]}


def _in_order(batches: Iterator[TowerOutput]) -> Iterator[tuple[Tensor, TowerOutput]]:
    start = 0
    for items in batches:
        yield torch.arange(start, start + len(items)), items
        start += len(items)
