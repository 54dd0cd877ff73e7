"""Small file helpers that every room shares: atomic writing and JSON lines."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ccmb.errors import CcmbError


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name `path` only once it is whole and on disk.

    A crash at any moment leaves either the old file or the new one. `mode` is "w" (UTF-8 text) or "wb".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        CcmbError: the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CcmbError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CcmbError(f"{path}: not valid JSON ({error})") from None


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file; blank lines are passed over.

    Raises:
        CcmbError: the file is missing, or a line is not a JSON object; the message names file and line.
    """
    try:
        file = open(path, encoding="utf-8-sig")
    except FileNotFoundError:
        raise CcmbError(f"{path}: no such file") from None
    with file:
        try:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise CcmbError(f"{path}:{number}: not valid JSON ({error.msg})") from None
                if not isinstance(value, dict):
                    raise CcmbError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
                yield number, value
        except UnicodeDecodeError as error:
            raise CcmbError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
