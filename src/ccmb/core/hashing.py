"""SHA-256 in hexadecimal, which tells files, images and settings apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError


def sha256_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """That of a JSON value, in whatever order its keys stand."""
    return sha256_of_bytes(json.dumps(value, sort_keys=True).encode())


def sha256_of_files(paths: Iterable[Path]) -> str:
    """That of what files hold, one after another.

    Raises:
        CcmbError: a file cannot be read; the message names it.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise CcmbError(f"{path}: {error.strerror or error}") from None
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """See `sha256_of_files`."""
    return sha256_of_files([path])
