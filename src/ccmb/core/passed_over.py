"""Files that are passed over in a folder: hidden files, and files that systems and tools add to those of the user.

Examples are a file manager's `._photo.jpg`, a notebook's `.ipynb_checkpoints`, a NAS's thumbnails in `@eaDir`, recycle
bins, and the extra files of macOS zips. If they were read, the same content would count twice.
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
    """Why a file or folder is passed over; None if it is not.

    Args:
        name: its name within the folder that the user named, with forward slashes.
    """
    for part in name.split("/"):
        if part.startswith("."):
            return HIDDEN
        if part.lower() in _SYSTEM:
            return SYSTEM
    return None


def fixed_part(pattern: str) -> str:
    """The folder at the beginning of a glob: all parts before the first one with a wildcard."""
    parts = pattern.split("/")
    magic = next((index for index, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
    return "/".join(parts[:magic]) or ("/" if pattern.startswith("/") else "")


@dataclass(slots=True)
class PassedOver:
    """What was passed over: the number of files and folders by reason, and some names. A folder counts as one."""

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
            own_names = self.names.setdefault(reason, [])
            own_names.extend(names[: _SHOWN - len(own_names)])

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
    """A user's patterns of files to pass over: `*.gif`, `raw`, `2019/**/scans`.

    A pattern without a slash matches the name of a file or folder at any depth. A pattern with a slash matches the path
    from the source or from its parent on. A pattern that begins with a slash matches the whole path. If it matches a
    folder, everything in the folder is excluded. `*` and `?` stop at slashes, `**` does not.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """Compile the patterns.

        Raises:
            UsageError: a pattern consists of slashes alone.
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
            name: its name within the source, with forward slashes.
            source: the whole path of the source.
        """
        name = unicodedata.normalize("NFC", name)
        if self._names and any(self._names.fullmatch(part) for part in name.split("/")):
            return True
        if self._paths is None:
            return False
        source = unicodedata.normalize("NFC", source.rstrip("/"))
        spellings = (name, f"{source.rpartition('/')[2]}/{name}", f"{source}/{name}")
        return any(self._paths.fullmatch(path) for path in spellings)


def _regex(pattern: str) -> str:
    """The pattern as a regular expression."""
    parts, position = list[str](), 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            parts.append("(?:.*/)?")
            position += 3
        elif pattern.startswith("**", position):
            parts.append(".*")
            position += 2
        elif pattern[position] in "*?":
            parts.append("[^/]*" if pattern[position] == "*" else "[^/]")
            position += 1
        elif match := re.compile(r"\[(!?)(\]?[^\]/]*)\]").match(pattern, position):
            inside = re.sub(r"([\\\[^&~|])", r"\\\1", match[2])
            parts.append(f"[{'^/' if match[1] else ''}{inside}]" if inside else re.escape(match[0]))
            position = match.end()
        else:
            parts.append(re.escape(pattern[position]))
            position += 1
    return "".join(parts)
