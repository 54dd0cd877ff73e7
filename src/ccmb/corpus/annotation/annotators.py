"""Who gave an answer: all forms of the value `completed_by` of Label Studio.

It is a number, an object with id, e-mail address and names, a text such as "admin@x.com, 1", or a list of any of these.
It is missing if the account was deleted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_ADDRESS = re.compile(r"[^\s,<>]+@[^\s,<>]+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Who:
    """A person by account id, by name, or by both; neither if the person is unknown."""

    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class Annotators:
    """One name for each person, even if one export gives the account id and another the address."""

    _names: dict[str, str] = field(default_factory=dict)

    def learn(self, completed_by: Any) -> None:
        """Note which account id belongs to which name."""
        who = who_of(completed_by)
        if who.id and who.name:
            self._names.setdefault(who.id, who.name)

    def name(self, completed_by: Any) -> str | None:
        """The address or name if any export gave it, else the account id; None if the person is unknown."""
        who = who_of(completed_by)
        return who.name or self._names.get(who.id or "") or who.id


def who_of(completed_by: Any) -> Who:
    """The person that a value of `completed_by` names."""
    if isinstance(completed_by, dict):
        names = (completed_by.get(key) for key in ("first_name", "last_name"))
        full = " ".join(str(name).strip() for name in names if name)
        name = next((completed_by[key] for key in ("email", "username", "name") if completed_by.get(key)), full)
        account_id = next((completed_by[key] for key in ("id", "pk") if completed_by.get(key) is not None), None)
        return Who(None if account_id is None else str(account_id), str(name).strip() or None)
    if isinstance(completed_by, list | tuple):
        parts = [who_of(part) for part in completed_by]
        return Who(next((who.id for who in parts if who.id), None), next((who.name for who in parts if who.name), None))
    if isinstance(completed_by, int | float) and not isinstance(completed_by, bool):
        return Who(str(int(completed_by)))
    return _of_text(completed_by) if isinstance(completed_by, str) else Who()


def _of_text(text: str) -> Who:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return Who(text)
    if address := _ADDRESS.search(text):
        account_id = _NUMBER.fullmatch(text[address.end() :].strip(" ,"))
        return Who(account_id[0] if account_id else None, address[0])
    return Who(name=text or None)
