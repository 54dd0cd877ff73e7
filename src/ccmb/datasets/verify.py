"""Check a whole data set: files, counts, ids, images, texts, and images that two splits share."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.data.images.source import UnreadableImageError, decode
from ccmb.data.photo_ids import Photo
from ccmb.datasets.cards import Card, find_card
from ccmb.datasets.dataset import Dataset
from ccmb.datasets.locate import MissingFile, known_split
from ccmb.datasets.problems import (  # fmt: skip
    BAD_IMAGE,
    LOST_SPLIT,
    MARKED_TEXT,
    NO_SPLIT,
    OTHER_COUNT,
    REPEATED_TEXT,
    SHARED_IMAGE,
    DatasetFinding,
    Problems,
    findings_text,
)
from ccmb.datasets.registry import open_dataset
from ccmb.datasets.shared_photos import Shared, check_across_splits, check_against, names_of_set, photos_words

_MARK = re.compile(r"[\u3400-\u9fff]+[:/][a-z]{1,4}(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Counts:
    """The usable content of a split."""

    images: int
    texts: int
    samples: int


@dataclass(slots=True)
class Checked:
    """What was checked, and what is wrong.

    Attributes:
        shared: by the name of another set, how many images each split shares with it.
        photographs: a line with the number of images that are photographs which other sets may have too.
    """

    name: str
    folder: str
    splits: dict[str, Counts] = field(default_factory=dict)
    shared: dict[str, Shared] = field(default_factory=dict)
    photographs: str = ""
    findings: list[DatasetFinding] = field(default_factory=list)

    @property
    def is_faulty(self) -> bool:
        """Whether any finding is more than a warning."""
        return any(finding.level == "problem" for finding in self.findings)


def verify_dataset(
    name: str,
    folder: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    against: Sequence[str] = (),
) -> Checked:
    """Read a whole data set, or one split of it, and list what is wrong.

    Args:
        split: the split to check; None: all that exist.
        against: other sets whose photographs this set must not share, see `names_of_set`.

    Raises:
        UsageError: there is no such data set or split.
        CcmbError: no split exists and can be used.
    """
    card, problems = find_card(name), Problems()
    known = [published.name for published in card.splits]
    names = known if split is None else [known_split(split, known, card.title)]
    checked, errors = Checked(card.name, str(folder)), []
    others = [names_of_set(spec) for spec in against]
    first_by_digest: dict[bytes, tuple[str, str]] = {}
    photos: dict[Photo, tuple[str, str]] = {}
    galleries: dict[str, list[str]] = {}
    for split_name in names:
        try:
            dataset = open_dataset(name, folder, split_name, images)
        except CcmbError as error:
            errors.append(error)
            kind = NO_SPLIT if isinstance(error, MissingFile) else LOST_SPLIT
            problems.add(kind, f"{split_name}: {error}")
            continue
        problems.add_all(dataset.skipped)
        counts = Counts(len(dataset.gallery), _texts(dataset), len(dataset.samples))
        checked.splits[split_name] = counts
        _check_counts(card, split_name, counts, problems)
        _check_texts(dataset, problems)
        _check_images(dataset, first_by_digest, problems)
        check_across_splits(split_name, dataset.gallery, photos, problems)
        galleries[split_name] = dataset.gallery
    if not checked.splits:
        raise next((error for error in errors if not isinstance(error, MissingFile)), errors[0])
    checked.photographs = photos_words(galleries)
    checked.shared = {other: check_against(galleries, other, other_names, problems) for other, other_names in others}
    checked.findings = list(problems.findings.values())
    return checked


def checked_text(checked: Checked) -> str:
    """The result of a check as lines of text."""
    lines = [
        f"{checked.name} {split}: {counts.images:,} images, {counts.texts:,} texts"
        for split, counts in checked.splits.items()
    ]
    if checked.photographs and not checked.shared:
        lines.append(checked.photographs)
    for other, shared in checked.shared.items():
        for split, counts in shared.items():
            shares = ", ".join(f"{count:,} of its {other_split}" for other_split, count in counts.items()) or "none"
            lines.append(f"{checked.name} {split} and {other}: {sum(counts.values()):,} images are shared ({shares})")
    count = sum(finding.count for finding in checked.findings)
    findings = [findings_text(checked.findings)] if checked.findings else []
    return "\n".join([*findings, *lines, f"{count:,} findings" if count else "nothing wrong"])


def _texts(dataset: Dataset) -> int:
    if dataset.classes:
        return sum(map(len, dataset.classes))
    return len(dataset.queries) or sum(len(sample.texts) for sample in dataset.samples)


def _check_counts(card: Card, split: str, counts: Counts, problems: Problems) -> None:
    published = next(published_split for published_split in card.splits if published_split.name == split)
    pairs = (("images", published.images, counts.images), ("texts", published.texts, counts.texts))
    for what, expected, usable in pairs:
        if expected not in (None, usable):
            problems.add(OTHER_COUNT, f"{split}: {usable:,} usable {what} instead of {expected:,}")


def _check_texts(dataset: Dataset, problems: Problems) -> None:
    if dataset.classes:
        return
    seen: Counter[tuple[str, str]] = Counter()
    for sample in dataset.samples:
        for text in sample.texts:
            seen[sample.image, text] += 1
            if seen[sample.image, text] == 2:
                problems.add(REPEATED_TEXT, f"{dataset.split}: {sample.image}: {text}")
            if _MARK.search(text):
                problems.add(MARKED_TEXT, f"{dataset.split}: {sample.image}: {text}")
    for query in dataset.queries:
        if not query.images and _MARK.search(query.text):
            problems.add(MARKED_TEXT, f"{query.where}: {query.text}")


def _check_images(dataset: Dataset, seen: dict[bytes, tuple[str, str]], problems: Problems) -> None:
    """Decode the images, and search for equal bytes in the earlier splits."""
    images = dataset.images
    with progress(f"verify {dataset.split}", len(dataset.gallery), "images") as advance:
        for name in dataset.gallery:
            advance(1)
            try:
                data = images.raw(name)
                decode(data)
            except UnreadableImageError as error:
                problems.add(BAD_IMAGE, str(error))
                continue
            except ValueError as error:
                problems.add(BAD_IMAGE, f"{images.path}/{name}: {error}")
                continue
            split, other = seen.setdefault(hashlib.blake2b(data, digest_size=16).digest(), (dataset.split, name))
            if split != dataset.split:
                problems.add(SHARED_IMAGE, f"{dataset.split}: {name} is {other} of {split}")
