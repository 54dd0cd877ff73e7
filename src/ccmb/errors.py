"""Errors that a user can mend: one line that names the file, line or key, and what to do."""

from __future__ import annotations


class CcmbError(Exception):
    """Something in the user's input or machine stops the work. The command line prints it, then exits."""

    exit_code = 1


class UsageError(CcmbError):
    """The command itself is wrong: an unknown key, option or name (exit code 2)."""

    exit_code = 2


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint such as ` (did you mean 'steps'?)`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def one_line(error: Exception, length: int = 200) -> str:
    """What an error of a library says, without line breaks and cut short."""
    return (" ".join(str(error).split()) or type(error).__name__)[:length]
