"""Authorization: the keys of clients, read from a file."""

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
    """A client. Its name counts for the rate limit; an admin may add and delete images."""

    name: str
    admin: bool = False


class Keys:
    """Clients by the digests of their keys, so that the time of a look-up does not depend on the key."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = {_digest(key): client for key, client in clients.items()}

    def find(self, key: str) -> Client | None:
        """The client that a key belongs to."""
        return self._clients.get(_digest(key))

    @staticmethod
    def read(path: Path) -> Keys:
        """Read keys from a text file whose lines are `NAME search KEY` or `NAME admin KEY`.

        Empty lines and lines that begin with `#` are skipped.

        Raises:
            CcmbError: the file cannot be read, or a line is not of this form; the message names file and line, but
                no key.
        """
        lines = text_lines(path, fix="give a file of keys, one `NAME search|admin KEY` a line")
        clients: dict[str, Client] = {}
        names: set[str] = set()
        for line_number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 3 or words[1] not in ("search", "admin"):
                raise CcmbError(f"{path}:{line_number}: a line is `NAME search KEY` or `NAME admin KEY`")
            name, role, key = words
            if len(key) < _SHORTEST or not key.isascii():
                raise CcmbError(f"{path}:{line_number}: the key must have {_SHORTEST} or more ASCII characters")
            if name in names or key in clients:
                raise CcmbError(f"{path}:{line_number}: name or key is there twice")
            names.add(name)
            clients[key] = Client(name, role == "admin")
        if not clients:
            raise CcmbError(f"{path}: no keys; a line is `NAME search KEY` or `NAME admin KEY`")
        return Keys(clients)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
