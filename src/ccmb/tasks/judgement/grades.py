"""Pairs that several people graded: own files, and Flickr8k's Expert and CrowdFlower judgements.

{"image": "cat.jpg", "text": "一只猫", "grades": [4, 4, 3], "split": "test"}

The published files (Hodosh et al. 2013) name images and captions, `IMAGE#K`, of which every translation with equal ids
can be read: the K-th text of the image in `pairs.jsonl` or `captions.jsonl` beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json_lines
from ccmb.core.text.files import text_lines
from ccmb.data.grouping import image_key, warn
from ccmb.data.pairs import read_pairs, read_split, sample_of_line
from ccmb.data.sample import Sample
from ccmb.datasets.locate import find_file

PUBLISHED = {"flickr8k-expert": "ExpertAnnotations.txt", "flickr8k-cf": "CrowdFlowerAnnotations.txt"}


@dataclass(frozen=True, slots=True)
class Graded:
    """A pair and what each of its judges said.

    Attributes:
        sample: one image and one text.
        grades: the higher, the better the text fits; as many as there were judges.
    """

    sample: Sample
    grades: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.grades) / len(self.grades)


def is_graded(path: str | Path) -> bool:
    """Whether the first line of a file of JSON lines has grades."""
    return any("grades" in line for _, line in islice(read_json_lines(path), 1))


def read_graded(path: Path, split: str | None) -> list[Graded]:
    """The pairs of one split (or of all) of an own file.

    Raises:
        CcmbError: a line lacks image, text or grades; the message names file and line.
    """
    grades: dict[int, tuple[float, ...]] = {}

    def sample(line: dict[str, object], where: str) -> Sample:
        if not isinstance(line.get("text"), str):
            raise CcmbError(f'{where}: no "text": each line of graded pairs needs one text')
        made = sample_of_line(line, ["text"], where)
        grades[id(made)] = _grades(line.get("grades"), where)
        kept.append(made)
        return made

    kept: list[Sample] = []
    samples, _ = read_split(path, split, sample)
    return [Graded(one, grades[id(one)]) for one in samples]


def _grades(value: object, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise CcmbError(f'{where}: "grades" must be a list of numbers, one for each judge')
    for grade in value:
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not math.isfinite(grade):
            raise CcmbError(f'{where}: "grades" holds {grade!r}, which is no number')
    return tuple(map(float, value))


def read_published(name: str, folder: Path, field: str) -> list[Graded]:
    """One of PUBLISHED, with the texts of a field of the captions beside it.

    A pair whose caption is not there is left out and counted on stderr.

    Raises:
        CcmbError: a file is missing, a line has another form, or no pair is left.
    """
    path = find_file(folder, [PUBLISHED[name]])
    captions = find_file(folder, ["captions.jsonl", "pairs.jsonl"])
    texts = {sample.image: sample.texts for sample in read_pairs(captions, None, [field], lenient=True)}
    graded, missing = list[Graded](), 0
    for where, image, caption, grades in _judgements(path, name):
        text = _text_of(caption, texts, where)
        if text is None:
            missing += 1
        else:
            graded.append(Graded(Sample(image_key(image), (text,), "test"), grades))
    if not graded:
        raise CcmbError(f"{path}: none of its captions is in {captions}")
    if missing:
        warn(f"{path}: {missing:,} pairs name captions that are not in {captions}, and are left out")
    return graded


def _judgements(path: Path, name: str) -> Iterator[tuple[str, str, str, tuple[float, ...]]]:
    """Place, image, caption and grades of each line; CrowdFlower counts its judges' yes (1) and no (0)."""
    for number, line in enumerate(text_lines(path), start=1):
        where, columns = f"{path}:{number}", line.split("\t")
        if not line.strip():
            continue
        if len(columns) != 5:
            raise CcmbError(f"{where}: has {len(columns)} columns; five with tabs between are known")
        image, caption, *values = (column.strip() for column in columns)
        if not all(value.replace(".", "", 1).isdigit() for value in values):
            raise CcmbError(f"{where}: {' '.join(values)}: judgements are numbers")
        if name == "flickr8k-expert":
            yield where, image, caption, tuple(map(float, values))
        else:
            yes, no = (int(float(value)) for value in values[1:])
            if not 0 < yes + no <= 1000:
                raise CcmbError(f"{where}: {yes} said yes and {no} no; between 1 and 1,000 judges are known")
            yield where, image, caption, (1.0,) * yes + (0.0,) * no


def _text_of(caption: str, texts: Mapping[str, tuple[str, ...]], where: str) -> str | None:
    image, sharp, number = caption.rpartition("#")
    if not sharp or not number.isdigit():
        raise CcmbError(f"{where}: {caption!r} is no caption's id, IMAGE#NUMBER")
    of_image = texts.get(image_key(image), ())
    return of_image[int(number)] if int(number) < len(of_image) else None
