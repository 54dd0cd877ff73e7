"""Files that nobody means who names a folder: hidden ones, and what systems and tools put beside one's own.

A file manager's `._photo.jpg`, a notebook's `.ipynb_checkpoints`, the thumbnails of a NAS in `@eaDir`, what lies in a
recycle bin or what a zip of macOS brings along would count a second time what is there already.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ccmb.core.errors import UsageError

HIDDEN, SYSTEM, EXCLUDED, TWICE, OF_INDEX, OF_CORPUS = (
    "hidden", "of the system", "excluded", "counted once already", "of an index", "of a corpus",
)  # fmt: skip
_SYSTEM = frozenset((
    "@eadir", "@recycle", "@tmp", "@sharebin", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot", "__macosx",
    "$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "lost+found", "lost.dir",
    "network trash folder", "temporary items", "__pycache__", "_temporary", "_delta_log", "_spark_metadata",
))  # fmt: skip
_SHOWN = 3


def why_passed_over(name: str) -> str | None:
    """Why a file or folder is passed over that lies in a folder that was named; None where it is not.

    Args:
        name: within that folder, with forward slashes.
    """
    for part in name.split("/"):
        if part.startswith("."):
            return HIDDEN
        if part.lower() in _SYSTEM:
            return SYSTEM
    return None


def fixed_part(pattern: str) -> str:
    """The folder of a glob that its user wrote out: what comes before the first part with a sign of globs."""
    parts = pattern.split("/")
    magic = next((place for place, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
    return "/".join(parts[:magic]) or ("/" if pattern.startswith("/") else "")


@dataclass(slots=True)
class PassedOver:
    """How many files, and folders with all that is in them, were passed over, by reason; and names."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        self.counts[reason] += 1
        shown = self.names.setdefault(reason, [])
        if len(shown) < _SHOWN:
            shown.append(name)

    def update(self, other: PassedOver) -> None:
        self.counts.update(other.counts)
        for reason, names in other.names.items():
            ours = self.names.setdefault(reason, [])
            ours.extend(names[: _SHOWN - len(ours)])

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """One line, such as "passed over: 3 hidden (._a.jpg, ...), 1 of the system (@eaDir)"."""
        parts = []
        for reason, count in sorted(self.counts.items()):
            names = [_shown(name) for name in self.names[reason]]
            more = ", ..." if count > len(names) else ""
            parts.append(f"{count:,} {reason} ({', '.join(names)}{more})")
        return f"passed over: {', '.join(parts)}"


def _shown(name: str) -> str:
    plain = "".join(one if one.isprintable() else "?" for one in name)
    return plain.encode(errors="replace").decode()


class Excludes:
    """Patterns of a user for what is to be passed over: `*.gif`, `raw`, `2019/**/scans`.

    One without a slash is of a file's or folder's name at any depth; one with a slash is of the path from the source
    or from its parent on, or if it begins with a slash of the whole path. What matches a folder excludes all in it.
    `*` and `?` stop at slashes, `**` does not.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """
        Raises:
            UsageError: a pattern is nothing but slashes.
        """
        self.patterns = [pattern for pattern in patterns if pattern.strip()]
        names, paths = list[str](), list[str]()
        for pattern in self.patterns:
            plain = unicodedata.normalize("NFC", pattern.strip().removeprefix("./").rstrip("/"))
            if not plain.strip("/"):
                raise UsageError(f"--exclude {pattern!r}: excludes everything; name a file, a folder or a pattern")
            (paths if "/" in plain else names).append(_regex(plain))
        self._names = re.compile("|".join(names)) if names else None
        self._paths = re.compile(f"(?:{'|'.join(paths)})(?:/.*)?", re.S) if paths else None

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def match(self, name: str, source: str = "") -> bool:
        """Whether a file is excluded.

        Args:
            name: within its source, with forward slashes.
            source: whole path of the source.
        """
        name = unicodedata.normalize("NFC", name)
        if self._names and any(self._names.fullmatch(part) for part in name.split("/")):
            return True
        if self._paths is None:
            return False
        source = unicodedata.normalize("NFC", source.rstrip("/"))
        whole = (name, f"{source.rpartition('/')[2]}/{name}", f"{source}/{name}")
        return any(self._paths.fullmatch(path) for path in whole)


def _regex(pattern: str) -> str:
    """The pattern as a regular expression."""
    parts, place = list[str](), 0
    while place < len(pattern):
        if pattern.startswith("**/", place):
            parts.append("(?:.*/)?")
            place += 3
        elif pattern.startswith("**", place):
            parts.append(".*")
            place += 2
        elif pattern[place] in "*?":
            parts.append("[^/]*" if pattern[place] == "*" else "[^/]")
            place += 1
        elif found := re.compile(r"\[(!?)(\]?[^\]/]*)\]").match(pattern, place):
            inside = re.sub(r"([\\\[^&~|])", r"\\\1", found[2])
            parts.append(f"[{'^/' if found[1] else ''}{inside}]" if inside else re.escape(found[0]))
            place = found.end()
        else:
            parts.append(re.escape(pattern[place]))
            place += 1
    return "".join(parts)
