"""Progress within progress: a terminal shows the outer work alone."""

from __future__ import annotations

import io
from types import SimpleNamespace

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


def test_a_line_has_no_rate_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr("ccmb.core.progress.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with progress("work", 4, "runs", done=1) as advance:
        advance(0, "begins")
        advance(1)
    assert capsys.readouterr().err == "work: 1/4  begins\nwork: 2/4  0.005 runs/s  6:40 left  begins\n"
