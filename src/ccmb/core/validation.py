"""Checks of a user's input: the text of a search or a match, and the minimum probability."""

from __future__ import annotations

from ccmb.core.errors import UsageError
from ccmb.core.text.cleaning import visible


def check_text(text: str, purpose: str) -> None:
    """Refuse a text that is empty or damaged.

    Args:
        purpose: the purpose of the text, such as "to search for".

    Raises:
        UsageError: the text is empty or not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of another encoding, as a shell hands them over
        raise UsageError(f"the text {purpose} is not UTF-8; set the terminal to it") from None
    if not visible(text):
        raise UsageError(
            f"the text {purpose} is empty" + (" but for marks that cannot be seen" if text.strip() else "")
        )


def check_at_least_1(**values: int | None) -> None:
    """Refuse counts below 1, by their names; None is no count.

    Raises:
        UsageError: one is.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; give at least 1")


def check_min_probability(value: float | None) -> None:
    """Refuse a minimum probability outside [0, 1]; None means no minimum.

    Raises:
        UsageError: the value is outside, or not a number.
    """
    if value is not None and not 0 <= value <= 1:
        raise UsageError(f"min_probability is {value}; give a number between 0 and 1")
