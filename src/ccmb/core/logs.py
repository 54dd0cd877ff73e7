"""What the package has to say besides its results: records of the logger `ccmb`, which a program shows as it likes.

The command line shows them as lines on stderr. A library that nobody configures is silent but for warnings, as
Python's logging has it; `logging.getLogger("ccmb")` silences or redirects them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("ccmb")
# `extra` of a message that begins with the file or set it is about: its line has no `ccmb: ` before it.
BARE = {"bare": True}


class LineHandler(logging.Handler):
    """Prints each message as a line on what is stderr at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if getattr(record, "bare", False) else "ccmb: "
        print(f"{prefix}{record.getMessage()}", file=sys.stderr, flush=True)


def shown_as_lines() -> bool:
    """Whether this process shows messages as lines on stderr."""
    return any(isinstance(handler, LineHandler) for handler in LOGGER.handlers)


@contextmanager
def lines_on_stderr() -> Iterator[None]:
    """Within the context, all messages of the package are lines on stderr."""
    if shown_as_lines():
        yield
        return
    handler, before = LineHandler(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
        LOGGER.removeHandler(handler)
