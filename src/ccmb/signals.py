"""An orderly end of commands that can be run again to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def orderly_end() -> Iterator[None]:
    """Within, SIGTERM ends the process with exit code 0 and a line on stderr: for work that keeps what it has done.

    The training loop, which has a step to save first, answers the signal itself. Outside the main thread nothing is
    set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        print("ccmb: stopped; run the same command again to go on", file=sys.stderr, flush=True)
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
