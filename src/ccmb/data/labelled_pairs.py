"""Custom labelled pairs: JSON lines of an image, a text, and whether they fit each other.

{"image": "cat.jpg", "text": "一只猫", "label": 1, "split": "train"}
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json_lines
from ccmb.data.equal_texts import text_key
from ccmb.data.grouping import warn
from ccmb.data.pairs import read_split, sample_of_line
from ccmb.data.sample import Sample


def read_labelled_pairs(path: str | Path, split: str | None = None) -> list[Sample]:
    """The pairs of one split (or of all): samples of one text each, with `extra["label"]` 1 or 0.

    A warning on stderr counts the pairs that have both labels. They are kept, and no model can be right about both.

    Raises:
        CcmbError: a line lacks its image, its text or its label; the message names file and line. Or the split has no
            line at all.
    """
    samples, _ = read_split(path, split, _labelled_sample)
    labels: dict[tuple[str, str], int] = {}
    both = dict[tuple[str, str], None]()
    for sample in samples:
        pair = sample.image, text_key(sample.texts[0])
        if labels.setdefault(pair, label_of(sample)) != label_of(sample):
            both[pair] = None
    if both:
        image, text = next(iter(both))
        count = "1 pair is" if len(both) == 1 else f"{len(both):,} pairs are"
        warn(f"{path}: {count} labelled both 1 and 0, such as {image}: {text}; keep one label of each")
    return samples


def is_labelled(path: str | Path) -> bool:
    """Whether the first line of a file of JSON lines has a text and a label.

    Raises:
        CcmbError: the file cannot be read, or its first line is not a JSON object.
    """
    return any({"text", "label"} <= line.keys() for _, line in islice(read_json_lines(path), 1))


def label_of(sample: Sample) -> int:
    """1 where the text of a labelled pair fits its image, 0 where it does not."""
    label = as_label((sample.extra or {}).get("label"))
    assert label is not None, "only samples of labelled pairs have a label"
    return label


def as_label(value: object) -> int | None:
    """The label 0 or 1 that a JSON number or text stands for; None for any other value."""
    if isinstance(value, bool | float) or value not in (0, 1, "0", "1"):
        return None
    return int(str(value))


def _labelled_sample(line: dict[str, object], where: str) -> Sample:
    if not isinstance(line.get("text"), str):
        raise CcmbError(f'{where}: no "text": each line of labelled pairs needs one text')
    label = as_label(line.get("label"))
    if label is None:
        raise CcmbError(f'{where}: "label" must be 1 (the text fits the image) or 0')
    return sample_of_line(line | {"label": label}, ["text"], where)
