"""Problems in the files of a data set, counted by kind, with the first ones of each kind as examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

EXAMPLES = 5

Level = Literal["warning", "problem"]


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A kind of problem: its name, and what to do about it. With a warning the data set is usable as it is."""

    what: str
    fix: str
    level: Level = "problem"


BAD_LINE = ProblemKind("unreadable lines", "download the file again, or remove or fix these lines; they are left out")
EMPTY_TEXT = ProblemKind("empty texts", "remove these lines or write the texts; they are left out")
REPEATED_ID = ProblemKind("repeated ids", "remove all lines of an id but one; the first one counts")
NO_IMAGE = ProblemKind("missing pictures", "complete the pack of images or remove these lines; they are left out")
BAD_IMAGE = ProblemKind("undecodable pictures", "download these images again, or remove them and their texts")
TWO_IMAGES = ProblemKind("ambiguous pictures", "remove or rename the others; the first one by its path counts")
NO_CLASS = ProblemKind("classes without a name", "add them to the class-name file; their images are left out")
BAD_TEMPLATE = ProblemKind("templates without one {}", "write {} once, where the class name goes; they are left out")
JOINED_TEXT = ProblemKind("part-of-speech marks", "nothing: these texts are read without the marks", "warning")
MARKED_TEXT = ProblemKind("part-of-speech marks left over", "take the caption file without marks, or remove them")
REPEATED_TEXT = ProblemKind("repeated texts of one image", "remove the repetitions if you train on them", "warning")
OTHER_COUNT = ProblemKind(
    "other counts than published", "download the split again, or say that you use another selection"
)
SHARED_IMAGE = ProblemKind("images in two splits", "take them out of the training split before you measure")
SHARED_PHOTO = ProblemKind(
    "photographs of another set",
    "never train on the one and measure on the other, or take them out of the training split; results are marked",
    "warning",
)
LOST_SPLIT = ProblemKind("splits that cannot be read", "download their files again; the other splits were checked")
NO_SPLIT = ProblemKind("missing splits", "nothing, if you do not need them; otherwise download their files", "warning")


@dataclass(slots=True)
class DatasetFinding:
    """All problems of one kind; each example is a line that names file, line or image."""

    what: str
    level: Level
    count: int
    examples: list[str]
    fix: str


@dataclass(slots=True)
class Problems:
    """Problems by kind, in the order in which the kinds first occurred."""

    findings: dict[ProblemKind, DatasetFinding] = field(default_factory=dict)

    def add(self, kind: ProblemKind, line: str) -> None:
        """Count one problem, and keep its line if it is among the first of its kind."""
        finding = self.findings.setdefault(kind, DatasetFinding(kind.what, kind.level, 0, [], kind.fix))
        finding.count += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(printable(line))

    def add_all(self, others: Problems) -> None:
        """Add the counts and examples of other problems."""
        for kind, other in others.findings.items():
            finding = self.findings.setdefault(kind, DatasetFinding(kind.what, kind.level, 0, [], kind.fix))
            finding.count += other.count
            finding.examples = [*finding.examples, *other.examples][:EXAMPLES]

    def count(self, kind: ProblemKind | None = None) -> int:
        """The number of problems of one kind, or of all."""
        return sum(finding.count for counted_kind, finding in self.findings.items() if kind in (None, counted_kind))

    @property
    def first(self) -> str:
        """The first example, or an empty string."""
        return next((finding.examples[0] for finding in self.findings.values()), "")


def findings_text(findings: Iterable[DatasetFinding]) -> str:
    """The findings as lines of text, each with its examples and its fix below."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level}: {finding.what}: {finding.count:,}")
        lines += [f"    {example}" for example in finding.examples]
        if finding.count > len(finding.examples):
            lines.append(f"    ... and {finding.count - len(finding.examples):,} more")
        lines.append(f"    -> {finding.fix}")
    return "\n".join(lines)


def printable(text: str, length: int = 300) -> str:
    """The text as one line that any terminal can show, cut to a length."""
    line = " ".join(text.split())[:length]
    return line.encode("utf-8", "replace").decode()
