"""Progress within progress: a terminal shows the outer work alone."""

from __future__ import annotations

import io

import pytest

from ccmb.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_within_a_bar_further_work_is_silent_and_afterwards_there_are_bars_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("outer", 2, "steps") as advance:
        advance()
        with progress("inner", 3, "items") as inner:
            inner(3, "a note")
        advance()
    assert "outer" in terminal.getvalue()
    assert "inner" not in terminal.getvalue()
    with progress("later", 1) as advance:
        advance()
    assert "later" in terminal.getvalue()
