"""Where the files of a data set lie in the user's folder: at its top or up to two folders below."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.passed_over import why_passed_over
from ccmb.data.images.source import ImageSource
from ccmb.datasets.formats.by_basename import NamedImages

# A split by the words that files use for it.
_WORDS = {"val": ("val", "valid", "validation", "dev")}
_DEPTHS = ("", "*/", "*/*/")


class MissingFile(CcmbError):
    """A file of the split is not in the folder."""


def split_words(split: str) -> tuple[str, ...]:
    """The words by which file names may call a split."""
    return _WORDS.get(split, (split,))


def known_split(split: str, known: list[str], name: str) -> str:
    """The split by the card's word for it.

    Raises:
        UsageError: the data set has no such split.
    """
    found = next((of_card for of_card in known if split in split_words(of_card)), None)
    if found is None:
        hint = did_you_mean(split, known)
        raise UsageError(f"{name} has no split '{split}'{hint}; published are: {', '.join(known)}")
    return found


def find_all(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files that match any of the patterns, those at the least depth only, in order."""
    patterns = list(patterns)
    try:
        for depth in _DEPTHS:
            every = (path for pattern in patterns for path in folder.glob(depth + pattern) if path.is_file())
            # A system's own copies, such as __MACOSX/._captions.txt, are no second file.
            found = {path for path in every if not why_passed_over(path.relative_to(folder).as_posix())}
            if found:
                return sorted(found)
    except OSError as error:
        raise CcmbError(f"{folder}: {error.strerror or error}") from None
    return []


def find_file(folder: Path, patterns: Iterable[str]) -> Path:
    """The one file that matches any of the patterns.

    Raises:
        MissingFile: there is none; the message says what was looked for.
        CcmbError: there are several.
    """
    patterns = list(patterns)
    found = find_all(folder, patterns)
    if not found:
        raise MissingFile(f"{folder}: no {' or '.join(dict.fromkeys(patterns))} in it or up to two folders below")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:4])
        raise CcmbError(f"{folder}: which of these is meant: {names}? Move the others out of the folder")
    return found[0]


def open_pictures(folder: Path, images: Path | None, usual: Iterable[str] = ()) -> NamedImages:
    """The pictures by base name: of the folder or tar that the user names, or of the first usual place there is.

    Raises:
        CcmbError: see `ImageSource.open`.
    """
    if images is None:
        places = [folder / name for name in (*usual, "images", "images.tar")]
        images = next((place for place in places if place.exists()), folder)
    return NamedImages(ImageSource.open(images))
