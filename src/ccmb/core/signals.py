"""An orderly end of commands that go on when they are run again."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LOG = logging.getLogger(__name__)


@contextmanager
def orderly_end() -> Iterator[None]:
    """Within the context, SIGTERM ends the process with exit code 0 and a line in the log.

    It is for work whose results are saved all the time. The training loop must save its step first, so it handles the
    signal itself. Outside the main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signal_number: int, frame: object) -> None:
        _LOG.info("stopped; run the same command again to go on")
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@dataclass(slots=True)
class Stop:
    """The signal that asked the run to stop; 0 if none did."""

    signal: int = 0


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within the context, the first SIGINT or SIGTERM is only noted, so that the step can end; the next one interrupts.

    Only the main thread receives signals. In other threads this does nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def receive(signal_number: int, frame: object) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = signal_number

    before = {signal_number: signal.signal(signal_number, receive) for signal_number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler or signal.SIG_DFL)
