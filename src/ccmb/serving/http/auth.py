"""Who may ask for what: keys of clients from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ccmb.core.errors import CcmbError
from ccmb.core.text.files import text_lines

Role = Literal["search", "admin"]
_SHORTEST = 16


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: its name counts for the rate limit. An admin may add and delete pictures."""

    name: str
    admin: bool = False


class Keys:
    """The clients of some keys, by the keys' digests, so that a look-up takes as long whatever key is tried."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = {_digest(key): client for key, client in clients.items()}

    def find(self, key: str) -> Client | None:
        """The client that a key belongs to."""
        return self._clients.get(_digest(key))

    @staticmethod
    def read(path: Path) -> Keys:
        """Keys of a text file: a line is `NAME search KEY` or `NAME admin KEY`; empty lines and `#` are passed over.

        Raises:
            CcmbError: the file cannot be read, or a line is not of this form; the message names file and line, but
                no key.
        """
        lines = text_lines(path, fix="give a file of keys, one `NAME search|admin KEY` a line")
        clients: dict[str, Client] = {}
        names: set[str] = set()
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 3 or words[1] not in ("search", "admin"):
                raise CcmbError(f"{path}:{number}: a line is `NAME search KEY` or `NAME admin KEY`")
            name, role, key = words
            if len(key) < _SHORTEST or not key.isascii():
                raise CcmbError(f"{path}:{number}: the key must have {_SHORTEST} or more ASCII characters")
            if name in names or key in clients:
                raise CcmbError(f"{path}:{number}: name or key is there twice")
            names.add(name)
            clients[key] = Client(name, role == "admin")
        if not clients:
            raise CcmbError(f"{path}: no keys; a line is `NAME search KEY` or `NAME admin KEY`")
        return Keys(clients)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
