"""The journal of work in parts that can be stopped at any moment: which parts are done, and how long each took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json

SECONDS_BETWEEN_SAVES = 5.0


class Journal:
    """A small JSON file with the settings of the work, its finished parts, and the seconds of each.

    Args:
        as_now: gives the settings that an older version wrote the names of today.

    It is a context manager, which saves the file every few seconds: a killed process loses no more than those. "total"
    counts the whole time within the context, over all runs that had a part left to do.

    Args:
        work: what it is called in messages, such as "quickstart".

    Raises:
        CcmbError: the file belongs to work with other settings; the message names the first difference.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        work: str,
        as_now: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self.path, self.settings = path, settings
        before = read_json(path) if path.exists() else {"settings": settings}
        if not isinstance(before, dict) or not isinstance(before.get("settings"), dict):
            raise CcmbError(f"{path}: not the file of a {work}; choose another --out or remove it")
        if difference := first_difference(as_now(before["settings"]), settings):
            raise CcmbError(
                f"{path.parent}: holds a {work} with another {difference}; choose another --out or remove the folder"
            )
        self.done: list[str] = before.get("done", [])
        self._kept: dict[str, float] = before.get("seconds", {})
        self._running: dict[str, float] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._saver = threading.Thread(target=self._save_now_and_then, daemon=True)

    def __enter__(self) -> Journal:
        self._saver.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._saver.join()
        if "total" in self._running:
            self._stop("total")
            self._save()

    def part(self, name: str, work: Callable[[], None], outputs: Sequence[Path]) -> None:
        """Do `work` unless it was done before and its outputs are all there."""
        if name in self.done and all(path.exists() for path in outputs):
            return
        self._start("total")
        self._start(name)
        self._save()
        try:
            work()
        finally:
            self._stop(name)
        if name not in self.done:
            self.done.append(name)
        self._save()

    def seconds(self) -> dict[str, float]:
        """The seconds of each part and of the whole so far, over all runs."""
        with self._lock:
            now = time.monotonic()
            names = list(dict.fromkeys([*self._kept, *self._running]))
            names.sort(key=lambda name: name == "total")
            running = {name: now - start for name, start in self._running.items()}
            return {name: round(self._kept.get(name, 0.0) + running.get(name, 0.0), 2) for name in names}

    def _start(self, name: str) -> None:
        with self._lock:
            self._running.setdefault(name, time.monotonic())

    def _stop(self, name: str) -> None:
        spent = self.seconds()[name]
        with self._lock:
            self._kept[name] = spent
            del self._running[name]

    def _save(self) -> None:
        write_json(self.path, {"done": self.done, "seconds": self.seconds(), "settings": self.settings})

    def _save_now_and_then(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_SAVES):
            if self._running:
                self._save()


def first_difference(before: object, now: object, key: str = "") -> str | None:
    """The first difference between two nested settings: its dotted key and both values. None if they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            inner = f"{key}.{name}" if key else str(name)
            if difference := first_difference(before.get(name), now.get(name), inner):
                return difference
        return None
    return None if before == now else f"{key} ({before!r}, now {now!r})"
