"""The one place where text goes to the terminal: names, texts and headers of others cannot steer it there.

What is not to be printed (escape sequences, control characters, halves of characters, marks that turn the direction of
writing) is shown by its number, as in `\\x1b` and `\\u202e`. The latter form is valid JSON, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

_MARKS = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"
_HIDDEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_MARKS}\ud800-\udfff]")
_HIDDEN_OR_BREAK = re.compile(rf"[\x00-\x1f\x7f-\x9f{_MARKS}\ud800-\udfff]")


def visible(text: object) -> str:
    """The text with line breaks and tabs as they are, and every other control character as its number."""
    return _HIDDEN.sub(_number, str(text))


def visible_line(text: object) -> str:
    """The text as one line: line breaks and tabs are shown by their numbers, too. For names within a line."""
    return _HIDDEN_OR_BREAK.sub(_number, str(text))


def _number(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}")


class VisibleStream:
    """A text stream that shows control characters instead of writing them; everything else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self.inner = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # no letter that a terminal lacks ends the work

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # libraries find out so whether a stream takes bytes
            raise TypeError(f"a text is needed, not {type(text).__name__}")
        self.inner.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def isatty(self) -> bool:
        """Never, so that no library sends it colours: see `plain_stderr`."""
        return False

    @property
    def encoding(self) -> str:
        # Libraries go around a stream of ASCII, to the bytes below; this one writes any text.
        return "utf-8"


def _guard(stream: Any) -> Any:
    return stream if isinstance(stream, VisibleStream) else VisibleStream(stream)


@contextmanager
def guarded() -> Iterator[None]:
    """Within, nothing that is written to stdout and stderr steers the terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_guard, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def plain_stderr() -> IO[str]:
    """stderr without the guard, for what draws and lets through no text of others."""
    return sys.stderr.inner if isinstance(sys.stderr, VisibleStream) else sys.stderr
