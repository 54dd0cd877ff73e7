"""The pictures behind an index: found again by source and name, and recognised when they have changed."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from ccmb.data.pictures import Pictures


class Sources:
    """Folders and tars, each opened once and only when a picture of it is asked for."""

    def __init__(self) -> None:
        self._opened: dict[str, Pictures] = {}

    def load(self, source: str | Path, name: str) -> Image.Image:
        """Open a picture as RGB.

        Raises:
            CcmbError: the source or the picture is gone or cannot be read.
        """
        key = str(source)
        if key not in self._opened:
            self._opened[key] = Pictures.open(key)
        return self._opened[key].load(name)


def stamp(source: Path, name: str) -> str:
    """Size and time of change of a file in a folder, or of the whole tar; empty if there is no such file."""
    try:
        status = os.stat(source / name if source.is_dir() else source)
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"
