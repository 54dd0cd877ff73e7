"""Steps whose results lie in a folder. A finished step is not run again; an interrupted one starts anew."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_path, read_json, write_json
from ccmb.core.progress import Advance
from ccmb.corpus.base.daft_engine import Table, check_sources

_DONE = "_done.json"  # readers of Parquet folders ignore names that begin with an underscore


def digest_of(value: Any) -> str:
    """The digest of a JSON value, which serves as its name."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


class Steps:
    """The steps of one build.

    Args:
        folder: holds a sub-folder for each step.
        settings: everything that the results depend on, as JSON: inputs, recipe and so on.
        advance: called after each step.
        as_now: gives the settings that an older version wrote the names of today.

    Attributes:
        seconds: how long each step took, for the steps that were run now.

    Raises:
        CcmbError: the folder holds the steps of another build.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        advance: Advance | None = None,
        as_now: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self.folder, self.advance = folder, advance
        self.seconds: dict[str, float] = {}
        digest = digest_of(settings)
        about = folder / "build.json"
        if not about.exists():
            write_json(about, {"digest": digest, **settings})
        elif (before := read_json(about)).pop("digest", None) != digest and digest_of(as_now(before)) != digest:
            raise CcmbError(
                f"{folder}: holds steps of other inputs or another recipe; remove it, or choose another --out"
            )

    def run(self, name: str, work: Callable[[Path], Any], folder: Path | None = None) -> Any:
        """Run a step, unless it is done, and return what `work(folder)` returned: a JSON value.

        Args:
            folder: where the result lies; by default the sub-folder `name`.
        """
        folder, start = folder or self.folder / name, time.monotonic()
        if not (folder / _DONE).exists():
            self._do(work, folder)
            self.seconds[name] = time.monotonic() - start
        if self.advance is not None:
            self.advance(1, name)
        return read_json(folder / _DONE)

    def _do(self, work: Callable[[Path], Any], folder: Path) -> None:
        for left in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            value = work(temporary)
            check_sources()
            write_json(temporary / _DONE, value)

    def table(self, name: str, buckets: int = 1) -> Table:
        """The rows that the step `name` wrote. If it wrote several tables, give "step/table"."""
        return Table(self.folder / name, buckets)
