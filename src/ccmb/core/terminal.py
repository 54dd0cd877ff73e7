"""Guards the terminal: names, texts and headers that come from others cannot control it.

Escape sequences, control characters, lone surrogates and marks that change the direction of writing are shown by their
code, such as `\\x1b` and `\\u202e`. The latter form is valid JSON, too.
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
    """The text with its line breaks and tabs; every other control character is shown by its code."""
    return _HIDDEN.sub(_number, str(text))


def visible_line(text: object) -> str:
    """The text as one line, for names within a line: line breaks and tabs are shown by their codes, too."""
    return _HIDDEN_OR_BREAK.sub(_number, str(text))


def _number(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}")


class VisibleStream:
    """A text stream that shows control characters by their codes; in everything else it is the inner stream."""

    def __init__(self, stream: IO[str]) -> None:
        self.inner = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a letter that the terminal lacks must not end the work

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # libraries test in this way whether a stream takes bytes
            raise TypeError(f"a text is needed, not {type(text).__name__}")
        self.inner.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def isatty(self) -> bool:
        """False, so that no library sends colours; see `plain_stderr`."""
        return False

    @property
    def encoding(self) -> str:
        # Libraries bypass an ASCII stream and write bytes to the inner one; this stream takes any text.
        return "utf-8"


def _guard(stream: Any) -> Any:
    return stream if isinstance(stream, VisibleStream) else VisibleStream(stream)


@contextmanager
def guarded() -> Iterator[None]:
    """Within the context, nothing that is written to stdout and stderr can control the terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_guard, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def plain_stderr() -> IO[str]:
    """stderr without the guard, for progress bars, which print no text that comes from others."""
    return sys.stderr.inner if isinstance(sys.stderr, VisibleStream) else sys.stderr
