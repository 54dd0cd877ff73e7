"""States by key, in the files of one folder.

Every file is safetensors and whole at any moment: `keys` (items, 16), `starts` and `lengths` (items,) and `states`
(rows, width). Its name is the digest of its content, so that a damaged file is noticed and removed when the folder is
opened, and several processes can write at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import safetensors.torch
import torch
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.core.hashing import sha256_of_bytes, sha256_of_file
from ccmb.data.states.rows import TensorRows, open_rows

SUFFIX = ".safetensors"
NAME_DIGITS = 40
FILE_BYTES = 2**27  # of states that are gathered before they are written


def key_of(*parts: bytes | str) -> bytes:
    """A key of 16 bytes for what the parts say."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


class StateStore:
    """The items of a folder: each a number of rows of one width, by its key.

    Files stay open, so that items can be read even if the files are removed meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._places: dict[bytes, tuple[TensorRows, int, int]] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the keys that have no item, once each and in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def refresh(self) -> None:
        """Open the files that have come since; damaged ones are removed."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name not in self._files and not path.name.startswith("."):
                self._open(path)

    def write(self, items: Sequence[tuple[bytes, Tensor]]) -> None:
        """Store items in a new file: the keys, and the rows (R, width) of each.

        Raises:
            CcmbError: the disk is full or not writable.
        """
        lengths = torch.tensor([len(rows) for _, rows in items])
        data = safetensors.torch.save(
            {
                "keys": torch.frombuffer(bytearray(b"".join(key for key, _ in items)), dtype=torch.uint8).view(-1, 16),
                "starts": lengths.cumsum(0) - lengths,
                "lengths": lengths,
                "states": torch.cat([rows for _, rows in items]),
            }
        )
        path = self.folder / (sha256_of_bytes(data)[:NAME_DIGITS] + SUFFIX)
        with atomic_write(path, "wb") as file:
            file.write(data)
        self._open(path)

    def read(self, keys: Sequence[bytes], rows: int | None = None) -> Tensor:
        """The items' rows (B, R, width); those with fewer rows than others are padded with zeros.

        Args:
            rows: the first so many of each item alone.

        Raises:
            CcmbError: an item is not there.
        """
        try:
            places = [self._places[key] for key in keys]
        except KeyError:
            raise CcmbError(f"{self.folder}: states of the data are missing; begin again") from None
        if rows is not None:
            places = [(states, start, min(rows, length)) for states, start, length in places]
        longest = max(length for _, _, length in places)
        batch = places[0][0].new(len(places), longest)
        for row, (states, start, length) in zip(batch, places, strict=True):
            states.read_into(row[:length], start)
        return batch

    def _open(self, path: Path) -> None:
        # Whatever damage may lead to.
        with suppress(OSError, CcmbError, ValueError, KeyError, TypeError, AttributeError):
            file, tensors = open_rows(path)
            if path.name == sha256_of_file(path)[:NAME_DIGITS] + SUFFIX:
                self._files[path.name] = file
                keys, starts, lengths = (
                    tensors[name].read(0, len(tensors[name])) for name in ("keys", "starts", "lengths")
                )
                for key, start, length in zip(keys.numpy(), starts.tolist(), lengths.tolist(), strict=True):
                    self._places[key.tobytes()] = tensors["states"], start, length
                return
            file.close()
        with suppress(OSError):
            os.unlink(path)
