"""Which lines of a data file are of one image, and how they become one sample.

`0.png`, `./0.png` and `a/../0.png` name the same image, and so do `a/0.png` and `a//0.png`. People write one line for
each text as often as one line for each image: both are read alike.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ccmb.data.images.source import inner_name
from ccmb.data.sample import Sample

_LOG = logging.getLogger(__name__)


def image_key(name: str) -> str:
    """The normalised form of an image's name; a name that leads outside stays as it is."""
    return inner_name(name) or name


def merge_by_image(samples: Iterable[Sample]) -> list[Sample]:
    """One sample for each image, in the order in which the images first come.

    The texts of each field are joined in order; a text that an earlier line of the image has is left out. Lists in
    `extra` are joined in the same way. For any other value, the first line that gives it counts.
    """
    of_image: dict[str, list[Sample]] = {}
    for sample in samples:
        of_image.setdefault(image_key(sample.image), []).append(sample)
    return [_merged(key, lines) for key, lines in of_image.items()]


def _merged(key: str, lines: Sequence[Sample]) -> Sample:
    first = lines[0]
    if len(lines) == 1:
        return first if first.image == key else replace(first, image=key)
    fields: tuple[tuple[str, ...], ...] = ()
    if all(len(line.fields) == len(first.fields) for line in lines):
        fields = tuple(_united(of_field) for of_field in zip(*(line.fields for line in lines), strict=True))
    texts = tuple(text for of_field in fields for text in of_field) or _united([line.texts for line in lines])
    group, swapped_id = (
        next((value for line in lines if (value := getattr(line, name)) is not None), None)
        for name in ("group", "swapped_id")
    )
    return Sample(key, texts, split=first.split, group=group, extra=_extra(lines), fields=fields, swapped_id=swapped_id)


def _united(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The first part unchanged, followed by the texts that only the other parts have."""
    united = list(parts[0])
    seen = set(united)
    for part in parts[1:]:
        united += dict.fromkeys(text for text in part if text not in seen)
        seen.update(part)
    return tuple(united)


def _extra(lines: Sequence[Sample]) -> dict[str, object] | None:
    if all(line.extra is None for line in lines):
        return None
    merged: dict[str, Any] = {}
    for line in lines:
        for name, value in (line.extra or {}).items():
            before = merged.setdefault(name, list(value) if isinstance(value, list) else value)
            if isinstance(before, list) and isinstance(value, list):
                before += [item for item in value if item not in before]
    return merged


@dataclass(slots=True)
class Splits:
    """Which images stand in which splits of a file.

    An image in two splits would be measured on after it was trained on.

    Attributes:
        first: split and line number of each image's first line.
        clashes: for each image that stands in several splits, those splits in order.
    """

    first: dict[str, tuple[str, int]] = field(default_factory=dict)
    clashes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, split: str, line_number: int) -> None:
        """Take note of a line."""
        key = image_key(name)
        before, _ = self.first.setdefault(key, (split, line_number))
        if split != before:
            of_image = self.clashes.setdefault(key, [before])
            if split not in of_image:
                of_image.append(split)

    def shared_with(self, split: str | None) -> dict[str, list[str]]:
        """The images of a split that stand in others too, and in which (None: all images of several splits)."""
        if split is None:
            return self.clashes
        return {
            key: [other for other in splits if other != split]
            for key, splits in self.clashes.items()
            if split in splits
        }

    def warning(self, path: object, split: str | None) -> str | None:
        """A line that counts and names them, or None."""
        shared = self.shared_with(split)
        if not shared:
            return None
        others = ", ".join(sorted({f"'{other}'" for splits in shared.values() for other in splits}))
        name = next(iter(shared))
        where = "several splits" if split is None else f"split '{split}' and in another one too"
        images = "1 image is" if len(shared) == 1 else f"{len(shared):,} images are"
        return (
            f"{path}: {images} in {where} ({others}), such as {name}, first in line {self.first[name][1]}; keep each "
            "in one split: measured on what was trained on, any metric is too good"
        )


def warn(line: str) -> None:
    """Log a warning about the data. Among processes that train together, only the first does."""
    if os.environ.get("RANK", "0") == "0":
        _LOG.warning(line)
