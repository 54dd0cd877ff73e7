"""Errors that a user can fix: one line that names the file, line or key, and what to do."""

from __future__ import annotations

from collections.abc import Callable


class CcmbError(Exception):
    """The user's input or machine stops the work. The command line prints the message and exits."""

    exit_code = 1


class UsageError(CcmbError):
    """The command is wrong: an unknown key, option or name (exit code 2)."""

    exit_code = 2


class Stopped(CcmbError):
    """A run was asked to stop, and its work is saved: nothing went wrong.

    If a scheduler or `kill` asked (SIGTERM), the exit code is 0: an orderly end is no failure. If the user asked
    (Ctrl-C), it is 130, as for any command: a script that goes on must not take the run for finished.
    """

    def __init__(self, message: str, by_user: bool) -> None:
        super().__init__(message)
        self.exit_code = 130 if by_user else 0


def did_you_mean(word: str, known: list[str], name: Callable[[str], str] = str) -> str:
    """A hint such as ` (did you mean 'steps'?)`, or an empty string.

    Args:
        name: how the word that is nearest is called in the hint.
    """
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{name(close[0])}'?)" if close else ""


def one_line(error: Exception, length: int = 200) -> str:
    """The message of a library's error in one line, cut to a length."""
    return (" ".join(str(error).split()) or type(error).__name__)[:length]
