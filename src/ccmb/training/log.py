"""The log of a run: JSON lines with a `step`, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.core.text.files import split_lines


def append_line(path: Path, line: Mapping[str, float | str]) -> None:
    """Append a line to the log.

    Raises:
        CcmbError: the disk is full or not writable.
    """
    try:
        with open(path, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    except OSError as error:
        raise CcmbError(f"{path}: could not be written ({error.strerror})") from None


def drop_lines_after(path: Path, step: int) -> None:
    """Remove the lines of steps after `step`, which a crash undid; a truncated last line goes too."""
    if not path.exists():
        return
    with atomic_write(path) as file:
        for line in split_lines(path.read_text(encoding="utf-8", errors="replace")):
            with suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    file.write(line + "\n")
