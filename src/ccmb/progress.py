"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]
SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress(label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Advance]:
    """Yield `advance(count, note)`, to be called as work gets done; shows rate per second and time left."""
    if sys.stderr.isatty():
        with _bar(label, total, unit, done) as advance:
            yield advance
    else:
        yield _lines(label, total, unit, done)


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="", note="")
        counted = 0

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal counted
            counted += count
            rate = f"{counted / max(1e-9, time.monotonic() - started):.0f} {unit}/s"
            bar.update(task, advance=count, rate=rate, note=note)

        yield advance


def _lines(label: str, total: int, unit: str, done: int) -> Advance:
    started = said = time.monotonic()
    counted = 0

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal said, counted
        counted += count
        now = time.monotonic()
        finished = done + counted >= total
        if now - said < SECONDS_BETWEEN_LINES and not (finished and now - started > 2):
            return
        said = now
        rate = counted / max(1e-9, now - started)
        left = max(0, total - done - counted) / max(1e-9, rate)
        print(
            f"{label}: {done + counted}/{total}  {rate:.0f} {unit}/s  {left // 60:.0f}:{left % 60:02.0f} left  {note}",
            file=sys.stderr,
            flush=True,
        )

    return advance
