"""Checks of a run's pairs and images before training. Each is a function of plain values that returns a result."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json_lines
from ccmb.data.equal_texts import text_key
from ccmb.data.grouping import image_key
from ccmb.data.images.source import ImageSource, UnreadableImageError
from ccmb.tasks.doctor.findings import CheckResult, graded, in_percent, share


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the pairs file.

    Attributes:
        number: of the line, from 1.
        texts: the texts of the trained fields, without empty ones.
        empty: the number of empty texts.
    """

    number: int
    image: str
    split: str
    texts: tuple[str, ...]
    empty: int


def read_lines(path: Path, fields: Sequence[str]) -> tuple[list[Line], list[str]]:
    """The usable lines of a pairs file, and a message for each other line, at which training would stop."""
    lines, faults = [], []
    try:
        for line_number, values in read_json_lines(path):
            image = values.get("image")
            field_values = [values[name] for name in fields if name in values]
            texts = [text for value in field_values for text in (value if isinstance(value, list) else [value])]
            if not isinstance(image, str) or not image:
                faults.append(f'{path}:{line_number}: no "image"')
            elif not field_values or not all(isinstance(text, str) for text in texts):
                faults.append(f"{path}:{line_number}: no texts in '{', '.join(fields)}'")
            else:
                full = tuple(text.strip() for text in texts if text.strip())
                split = str(values.get("split", "train"))
                lines.append(Line(line_number, image_key(image), split, full, max(1, len(texts)) - len(full)))
    except CcmbError as error:  # not JSON: nothing after it can be read
        faults.append(str(error))
    return lines, faults


def merged(lines: Sequence[Line]) -> list[Line]:
    """One line for each image, as training reads it: with the texts of all its lines, each text once."""
    lines_by_image: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        lines_by_image[line.image].append(line)
    return [
        first
        if not others
        else replace(first, texts=tuple(dict.fromkeys(text for line in (first, *others) for text in line.texts)))
        for first, *others in lines_by_image.values()
    ]


def unreadable_of(images: ImageSource, names: Iterable[str]) -> list[str]:
    """A line for each image that cannot be read and decoded."""
    lines = []
    for name in names:
        try:
            images.load(name)
        except UnreadableImageError as error:
            lines.append(str(error))
    return lines


def digests_of(images: ImageSource, names: Iterable[str]) -> dict[str, str]:
    """A hash of the bytes of each readable image, by name."""
    digests = {}
    for name in names:
        with suppress(UnreadableImageError):
            digests[name] = hashlib.blake2b(images.raw(name), digest_size=16).hexdigest()
    return digests


def check_faults(faults: Sequence[str], count: int) -> CheckResult:
    """Check whether all lines can be read."""
    if not faults:
        return CheckResult("lines", "ok", f"{count:,} lines")
    return CheckResult(
        "lines", "problem", f"{len(faults):,} lines cannot be used: {faults[0]}", "correct or remove them"
    )


def check_empty_texts(lines: Sequence[Line]) -> CheckResult:
    """Check for texts without a character."""
    empty = [line for line in lines if line.empty]
    if not empty:
        return CheckResult("empty texts", "ok", "none")
    count = sum(line.empty for line in empty)
    return CheckResult("empty texts", "problem", f"{count:,}, the first in line {empty[0].number}", "remove them")


def check_repeated_names(lines: Sequence[Line]) -> CheckResult:
    """Count the images and texts that are trained on, and the images that stand in several lines.

    Training reads such lines as one.
    """
    counts = Counter(line.image for line in lines)
    several = sum(count > 1 for count in counts.values())
    texts = sum(len(line.texts) for line in merged(lines))
    message = f"{len(counts):,} images with {texts:,} texts"
    if several:
        message += f"; {several:,} of them stand in several lines ({len(lines):,} in all), which are read as one"
    return CheckResult("image names", "ok", message)


def check_leaks(lines: Sequence[Line], split: str) -> CheckResult:
    """Check for images of the training split that stand in another split too."""
    trained = {line.image for line in lines if line.split == split}
    leaked = sorted({line.image for line in lines if line.split != split} & trained)
    if not leaked:
        return CheckResult("splits", "ok", f"no image of '{split}' is in another split")
    message = f"{len(leaked):,} images of '{split}' are in another split too, such as {leaked[0]}"
    return CheckResult("splits", "problem", message, "keep each in one split: measured on them, any metric is too good")


def check_same_bytes(digests: dict[str, str], sampled: bool) -> CheckResult:
    """Check for images with different names but the same bytes: indistinguishable negatives of each other."""
    names = defaultdict(list)
    for name, digest in digests.items():
        names[digest].append(name)
    copies = sorted((same for same in names.values() if len(same) > 1), key=len, reverse=True)
    extra = sum(len(same) - 1 for same in copies)
    examined = f"{len(digests):,} images" + (" of a sample" if sampled else "")
    if not copies:
        return CheckResult("equal files", "ok", f"none among {examined}")
    message = f"{extra:,} of {examined} are copies under another name, such as {' = '.join(copies[0][:3])}"
    fix = "give copies one name: then they are positives of each other instead of negatives"
    return graded("equal files", value=share(extra, len(digests)), warning=0.0, problem=0.2, message=message, fix=fix)


def check_unreadable(unreadable: Sequence[str], count: int, sampled: bool) -> CheckResult:
    """Check for images that cannot be read, among `count` that were tried; training leaves them out."""
    examined = f"{count:,} images" + (" of a sample" if sampled else "")
    if not unreadable:
        return CheckResult("unreadable", "ok", f"none among {examined}")
    message = f"{len(unreadable):,} of {examined}: {unreadable[0]}"
    fix = "fix or remove them; training leaves them out, and batches become smaller"
    return graded("unreadable", value=share(len(unreadable), count), warning=0.0, problem=0.2, message=message, fix=fix)


def check_shared_texts(lines: Sequence[Line], batch: int, shown: int = 3) -> CheckResult:
    """Check for texts that several images share, see `text_key`: in a batch these images are no negatives."""
    images: dict[str, set[str]] = defaultdict(set)
    mass: dict[str, float] = defaultdict(float)  # how often a text is drawn in an epoch
    for line in lines:
        for text in line.texts:
            images[text_key(text)].add(line.image)
            mass[text_key(text)] += 1 / len(line.texts)
    shared = sorted((text for text, images in images.items() if len(images) > 1), key=lambda text: -len(images[text]))
    if not shared:
        return CheckResult("shared texts", "ok", f"{len(images):,} texts, no two images have the same")
    rows = share(
        sum(mass[t] * _meets(mass[t] * (1 - 1 / len(images[t])) / len(lines), batch) for t in shared), len(lines)
    )
    examples = ", ".join(f"{text[:20]} ({len(images[text])})" for text in shared[:shown])
    message = (
        f"{in_percent(share(len(shared), len(images)))} of the texts belong to several images; "
        f"in a batch of {batch} {in_percent(rows)} of the rows have another right answer; most often: {examples}"
    )
    fix = "write more particular texts: equal ones are positives of each other, from which no stage learns to choose"
    return graded("shared texts", value=rows, warning=0.05, problem=0.95, message=message, fix=fix)


def check_lengths(lengths: Sequence[int], context: int) -> CheckResult:
    """Check the texts' lengths, in tokens with the special ones, against the context."""
    if not lengths:
        return CheckResult(
            "text length", "problem", "there are no texts", "name the fields that hold them: data.fields"
        )
    ordered = sorted(lengths)
    cut = share(sum(length > context for length in ordered), len(ordered))
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    message = (
        f"{in_percent(cut)} are longer than model.max_text_tokens={context} and lose their end; "
        f"95 % have at most {p95} tokens, the longest has {ordered[-1]}"
    )
    return graded(
        "text length",
        value=cut,
        warning=0.05,
        problem=0.5,
        message=message,
        fix=f"set model.max_text_tokens={p95} or shorten the texts",
    )


def check_batch(count: int, batch: int, steps: int) -> CheckResult:
    """Check the batch against the number of images."""
    if count < batch:
        message = f"{count:,} images do not fill training.batch_size={batch}"
        return CheckResult("batch", "problem", message, f"set training.batch_size to at most {max(2, count // 4)}")
    epochs = steps / (count // batch)
    message = f"{count:,} images, {count // batch:,} steps an epoch, {epochs:.3g} epochs in {steps:,} steps"
    if count < 4 * batch:
        fix = f"lower training.batch_size to {max(2, count // 16)}: negatives are nearly the same in each step"
        return CheckResult("batch", "warning", message, fix)
    if epochs < 1:
        return CheckResult(
            "batch", "warning", message, f"set training.steps to {count // batch} or more, to see all once"
        )
    if epochs > 300:
        return CheckResult("batch", "warning", message, "so many epochs overfit: lower training.steps, or add images")
    return CheckResult("batch", "ok", message)


def _meets(chance: float, batch: int) -> float:
    """The probability that an event of probability `chance` happens in at least one of a batch's other rows."""
    return 1 - (1 - min(1.0, chance)) ** (batch - 1)
