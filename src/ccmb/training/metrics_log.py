"""The log of a run as event files for TensorBoard: `tensorboard --logdir RUN`.

Records are written at once: the usual writers do it in a thread, which a full disk kills with a traceback.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)

Board = Callable[[Mapping[str, float]], None]


@contextmanager
def event_files(folder: Path, step: int, wanted: bool = True) -> Iterator[Board]:
    """Yield a function that writes a line of the log, which has a `step`, into `folder`.

    Events of steps after `step` are discarded, as lines of the log are when a run goes on. The log itself is what
    counts: where TensorBoard is missing or fails, a line on stderr reports it and the run goes on.
    """
    writer: EventWriter | None = None

    def board(line: Mapping[str, float]) -> None:
        nonlocal writer, wanted
        if not wanted:
            return
        try:
            writer = writer or EventWriter(folder, step)
            writer.write(line)
            return
        except ImportError:
            reason = "tensorboard is not installed, so there are no event files; pip install tensorboard"
        except OSError as error:
            reason = f"{folder}: no more event files ({error.strerror})"
        wanted = False
        _LOG.warning(reason)

    try:
        yield board
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()


class EventWriter:
    """One event file. TensorBoard reads the files of a folder in the order of their names, which begin with the time.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event: Any = Event
        self._summary: Any = Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "wb", buffering=0)  # noqa: SIM115 - it stays open as long as the run
        self._records: Any = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # A start at a step tells TensorBoard to forget what earlier files hold of that step and all later ones.
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, line: Mapping[str, float]) -> None:
        """One event with every metric of the line that is finite."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in line.items()
            if name != "step" and math.isfinite(value)
        ]
        self._write(step=int(line["step"]), summary=self._summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
