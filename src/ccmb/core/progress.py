"""Progress of long work on stderr: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ccmb.core.terminal import guarded, plain_stderr, visible_line

SECONDS_BETWEEN_LINES = 15.0
_drawn = False  # whether this or another process shows a bar


class Advance(Protocol):
    def __call__(self, count: int = 1, note: str = "") -> None:
        """Count work as done. A note, such as the losses, is shown until the next one."""


def silence() -> None:
    """Show no progress from now on, because the parent process shows it."""
    global _drawn
    _drawn = True


@contextmanager
def progress(label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Advance]:
    """Show progress with rate and time left. Yield `advance(count, note)`, to be called as work gets done.

    While another bar is shown, nothing is shown: a terminal has room for one bar.

    Args:
        unit: the unit of the count, such as "samples".
        done: how much of `total` was done before; it does not count for the rate.
    """
    global _drawn
    if _drawn:
        yield lambda count=1, note="": None
    elif plain_stderr().isatty():
        _drawn = True
        try:
            with _bar(label, total, unit, done) as advance:
                yield advance
        finally:
            _drawn = False
    else:
        yield _lines(label, total, unit, done)


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    # Names may hold square brackets, which are no markup.
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    label = visible_line(label)
    # The bar replaces stdout and stderr by its own streams, which are guarded as well.
    with Progress(*columns, console=Console(file=plain_stderr())) as bar, guarded():
        task = bar.add_task(label, total=total, completed=done, rate="", note="")
        counted, latest = 0, ""

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal counted, latest
            counted += count
            latest = visible_line(note) or latest
            rate = f"{counted / max(1e-9, time.monotonic() - started):.3g} {unit}/s"
            bar.update(task, advance=count, rate=rate, note=latest)

        yield advance


def _lines(label: str, total: int, unit: str, done: int) -> Advance:
    started = printed = time.monotonic()
    counted, latest = 0, ""

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal printed, counted, latest
        counted += count
        latest = visible_line(note) or latest
        now = time.monotonic()
        finished = done + counted >= total
        if now - printed < SECONDS_BETWEEN_LINES and not (finished and now - started > 2):
            return
        printed = now
        rate = counted / max(1e-9, now - started)
        minutes, seconds = divmod(round(max(0, total - done - counted) / max(1e-9, rate)), 60)
        pace = f"{rate:.3g} {unit}/s  {minutes}:{seconds:02} left  " if counted else ""  # nothing yet: no rate
        line = f"{label}: {done + counted}/{total}  {pace}{latest}"
        print(line.rstrip(), file=sys.stderr, flush=True)

    return advance
