"""What is wrong with the files of a data set: counted by kind, with the first of each kind as examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

EXAMPLES = 5

Level = Literal["warning", "problem"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it is called, and what to do about it. A warning leaves the data set usable as it is."""

    what: str
    mend: str
    level: Level = "problem"


BAD_LINE = Kind("unreadable lines", "download the file again, or remove or mend these lines; they are left out")
EMPTY_TEXT = Kind("empty texts", "remove these lines or write the texts; they are left out")
REPEATED_ID = Kind("repeated ids", "remove all lines of an id but one; the first one counts")
NO_PICTURE = Kind("missing pictures", "complete the pack of pictures or remove these lines; they are left out")
BAD_PICTURE = Kind("undecodable pictures", "download these pictures again, or remove them and their texts")
TWO_PICTURES = Kind("ambiguous pictures", "remove or rename the others; the first one by its path counts")
NO_CLASS = Kind("classes without a name", "add them to the class-name file; their pictures are left out")
BAD_TEMPLATE = Kind("templates without one {}", "write {} once, where the class name goes; they are left out")
JOINED_TEXT = Kind("part-of-speech marks", "nothing: these texts are read without the marks", "warning")
MARKED_TEXT = Kind("part-of-speech marks left over", "take the caption file without marks, or remove them")
REPEATED_TEXT = Kind("repeated texts of one picture", "remove the repetitions if you train on them", "warning")
OTHER_COUNT = Kind("other counts than published", "download the split again, or say that you use another selection")
SHARED_PICTURE = Kind("pictures in two splits", "take them out of the training split before you measure")
SHARED_PHOTO = Kind(
    "photographs of another set",
    "never train on the one and measure on the other, or take them out of the training split; results are marked",
    "warning",
)
LOST_SPLIT = Kind("splits that cannot be read", "download their files again; the other splits were checked")
NO_SPLIT = Kind("missing splits", "nothing, if you do not need them; otherwise download their files", "warning")


@dataclass(slots=True)
class Finding:
    """All faults of one kind; each example is a line that names file, line or picture."""

    what: str
    level: Level
    count: int
    examples: list[str]
    mend: str


@dataclass(slots=True)
class Problems:
    """Faults by kind, in the order in which the kinds were first met."""

    found: dict[Kind, Finding] = field(default_factory=dict)

    def add(self, kind: Kind, line: str) -> None:
        """Count one fault, and keep its line if it is among the first of its kind."""
        finding = self.found.setdefault(kind, Finding(kind.what, kind.level, 0, [], kind.mend))
        finding.count += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(printable(line))

    def add_all(self, others: Problems) -> None:
        """Count what others have counted."""
        for kind, other in others.found.items():
            finding = self.found.setdefault(kind, Finding(kind.what, kind.level, 0, [], kind.mend))
            finding.count += other.count
            finding.examples = [*finding.examples, *other.examples][:EXAMPLES]

    def count(self, kind: Kind | None = None) -> int:
        """The faults of one kind, or of all."""
        return sum(finding.count for of_kind, finding in self.found.items() if kind in (None, of_kind))

    @property
    def first(self) -> str:
        """The first example, or an empty string."""
        return next((finding.examples[0] for finding in self.found.values()), "")


def findings_text(findings: Iterable[Finding]) -> str:
    """The findings as lines of text, each with its examples and its mend below."""
    lines = []
    for found in findings:
        lines.append(f"{found.level}: {found.what}: {found.count:,}")
        lines += [f"    {example}" for example in found.examples]
        if found.count > len(found.examples):
            lines.append(f"    ... and {found.count - len(found.examples):,} more")
        lines.append(f"    -> {found.mend}")
    return "\n".join(lines)


def printable(text: str, length: int = 300) -> str:
    """The text in one line that any terminal takes."""
    line = " ".join(text.split())[:length]
    return line.encode("utf-8", "replace").decode()
