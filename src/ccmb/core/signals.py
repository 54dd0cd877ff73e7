"""An orderly end of commands that can be run again to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


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


@dataclass(slots=True)
class Stop:
    """Which signal has asked the run to stop; 0 if none."""

    signal: int = 0


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within, the first SIGINT or SIGTERM is only noted, so that no step is torn; the next one interrupts.

    Outside the main thread, which alone receives signals, nothing is set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def receive(number: int, frame: object) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
