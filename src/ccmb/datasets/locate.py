"""Finding the files of a data set in the user's folder: at its top, or up to two folders below."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.passed_over import why_passed_over
from ccmb.data.images.source import ImageSource
from ccmb.datasets.formats.by_basename import NamedImages

# The words that file names use for a split, if not its own name alone.
_WORDS = {"val": ("val", "valid", "validation", "dev")}
_DEPTHS = ("", "*/", "*/*/")


class MissingFile(CcmbError):
    """A file of the split is not in the folder."""


def split_words(split: str) -> tuple[str, ...]:
    """The words that file names may use for a split."""
    return _WORDS.get(split, (split,))


def known_split(split: str, known: list[str], name: str) -> str:
    """The card's name of a split.

    Raises:
        UsageError: the data set has no such split.
    """
    known_name = next((card_split for card_split in known if split in split_words(card_split)), None)
    if known_name is None:
        hint = did_you_mean(split, known)
        raise UsageError(f"{name} has no split '{split}'{hint}; published splits: {', '.join(known)}")
    return known_name


def find_all(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files that match any of the patterns, in order; only those at the smallest depth that has any."""
    patterns = list(patterns)
    try:
        for depth in _DEPTHS:
            matches = (path for pattern in patterns for path in folder.glob(depth + pattern) if path.is_file())
            # System files such as __MACOSX/._captions.txt do not count as a second file.
            files = {path for path in matches if not why_passed_over(path.relative_to(folder).as_posix())}
            if files:
                return sorted(files)
    except OSError as error:
        raise CcmbError(f"{folder}: {error.strerror or error}") from None
    return []


def find_file(folder: Path, patterns: Iterable[str]) -> Path:
    """The only file that matches any of the patterns.

    Raises:
        MissingFile: no file matches; the message lists the patterns.
        CcmbError: several files match.
    """
    patterns = list(patterns)
    files = find_all(folder, patterns)
    if not files:
        raise MissingFile(f"{folder}: no {' or '.join(dict.fromkeys(patterns))} in it or up to two folders below")
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:4])
        raise CcmbError(f"{folder}: which of these is meant: {names}? Move the others out of the folder")
    return files[0]


def open_images(folder: Path, images: Path | None, usual: Iterable[str] = ()) -> NamedImages:
    """The images by base name, from the user's folder or tar, or else from the first usual path that exists.

    Raises:
        CcmbError: see `ImageSource.open`.
    """
    if images is None:
        candidates = [folder / name for name in (*usual, "images", "images.tar")]
        images = next((path for path in candidates if path.exists()), folder)
    return NamedImages(ImageSource.open(images))
