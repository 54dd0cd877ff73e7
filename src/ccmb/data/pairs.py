"""Custom pairs: `pairs.jsonl`, one line an image or one line a text, beside a folder or tar of images.

{"image": "cat.jpg", "captions": ["一只猫", "沙发上的黄猫"], "split": "train"}

A field may ask for a language, `texts@en`: of its texts, those that are of this language. A text's language is that of
its line, or its own, {"text": "a cat", "language": "en"}. `A.jsonl+B.jsonl` are several files of one folder whose lines
of an image are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.files import read_json_lines
from ccmb.data.grouping import Splits, image_key, merge_by_image, warn
from ccmb.data.images.source import ImageSource, UnreadableImageError
from ccmb.data.languages import AT, tag_of
from ccmb.data.sample import Sample

_NOT_TEXTS = ("image", "split", "group", "twin")
_LANGUAGE = "language"


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one split of a file.

    Attributes:
        samples: one for each image; lines of the same image are merged, see `merge_by_image`.
        lines: number of lines before merging.
        in_other_splits: names of the images that stand in another split of the file too.
    """

    samples: list[Sample]
    lines: int
    in_other_splits: tuple[str, ...] = ()


def read_pairs(
    path: str | Path, split: str | None = None, fields: Sequence[str] = ("texts",), *, lenient: bool = False
) -> list[Sample]:
    """Read the samples of one split (or of all), with the texts of the named fields joined in order; one an image.

    A field holds one text or a list of texts. `split` None reads every line. A warning on stderr counts the images that
    stand in several splits.

    Args:
        lenient: leave out images without a text in any field, and count them on stderr; so it is of several files.

    Raises:
        CcmbError: a line lacks its image or every named field, or a text is empty; the message names file and line.
            Or the split has no line at all.
    """
    return open_pairs(path, split, fields, lenient=lenient).samples


def open_pairs(
    path: str | Path, split: str | None = None, fields: Sequence[str] = ("texts",), *, lenient: bool = False
) -> Pairs:
    """Like `read_pairs`, together with the number of lines and the images that other splits share."""
    lenient = lenient or len(files_of(path)) > 1
    lines, shared = read_split(path, split, lambda line, where: sample_of_line(line, fields, where, lenient=lenient))
    samples = merge_by_image(lines)
    named = [sample for sample in samples if sample.texts]
    if not named:
        raise CcmbError(f"{path}: no image has a text in {', '.join(fields)}")
    if len(named) < len(samples):
        warn(f"{path}: {len(samples) - len(named):,} images have no text in {', '.join(fields)}, and are left out")
    return Pairs(named, len(lines), shared)


def files_of(path: str | Path) -> list[Path]:
    """The files of `FOLDER/A.jsonl+B.jsonl`; a file whose name has a plus in it is one."""
    path = Path(path)
    if "+" not in path.name or path.exists():
        return [path]
    return [path.parent / name for name in path.name.split("+")]


def read_split(
    path: str | Path, split: str | None, make: Callable[[dict[str, object], str], Sample]
) -> tuple[list[Sample], tuple[str, ...]]:
    """The samples of one split (or of all), in order, and the names of the images that stand in another split too.

    A warning on stderr counts these images.

    Args:
        make: makes a sample of a line and of its place ("FILE:LINE").

    Raises:
        CcmbError: a line lacks its image, or `make` refuses it; or the split has no line at all.
    """
    samples: list[Sample] = []
    known: set[str] = set()
    splits = Splits()
    numbered = ((file, *numbered) for file in files_of(path) for numbered in read_json_lines(file))
    for file, line_number, line in numbered:
        where = f"{file}:{line_number}"
        line_split = str(line.get("split", "train"))
        splits.add(_check_image(line, where), line_split, line_number)
        known.add(line_split)
        if split is None or line_split == split:
            samples.append(make(line, where))
    if not samples:
        if not known:
            raise CcmbError(f"{path}: the file has no lines")
        hint = did_you_mean(str(split), sorted(known))
        raise CcmbError(f"{path}: no images in split '{split}'{hint}; it has: {', '.join(sorted(known))}")
    if warning := splits.warning(path, split):
        warn(warning)
    return samples, tuple(splits.shared_with(split))


def sample_of_line(
    line: dict[str, object], fields: Sequence[str] | None, where: str, *, lenient: bool = False
) -> Sample:
    """The sample of one JSON object, with the texts of the named fields (None: of every field that holds texts).

    Args:
        lenient: it may have no text.

    Raises:
        CcmbError: see `read_pairs`; the message begins with `where`.
    """
    image = _check_image(line, where)
    fields = _text_fields(line) if fields is None else fields
    by_field = _texts(line, fields, where)
    if not lenient and not any(by_field):
        known = ", ".join(_text_fields(line)) or "none"
        raise CcmbError(f"{where}: no text field '{', '.join(fields)}'; the line has: {known}")
    texts = tuple(text for field_texts in by_field for text in field_texts)
    extra = {
        key: value
        for key, value in line.items()
        if key not in {*_NOT_TEXTS, *(field.partition(AT)[0] for field in fields)}
    }
    group, swapped_id = (None if line.get(key) is None else str(line[key]) for key in ("group", "twin"))
    split = str(line.get("split", "train"))
    return Sample(image, texts, split=split, group=group, extra=extra, fields=by_field, swapped_id=swapped_id)


def readable_samples(samples: Sequence[Sample], images: ImageSource) -> tuple[list[Sample], list[str]]:
    """The samples whose images can be read, and a line for each image that cannot.

    Raises:
        CcmbError: none can be read.
    """
    unreadable: dict[str, str] = {}
    for name in dict.fromkeys(sample.image for sample in samples):
        try:
            images.load(name)
        except UnreadableImageError as error:
            unreadable[name] = str(error)
    lines = list(unreadable.values())
    good = [sample for sample in samples if sample.image not in unreadable]
    if not good:
        raise CcmbError(f"{images.path}: none of the images could be read ({lines[0]})")
    return good, lines


def images_beside(pairs: Path) -> Path:
    """The tar `images.tar` or the folder `images` beside a file of pairs.

    Raises:
        CcmbError: there is neither; the message names the tar.
    """
    existing = [path for path in (pairs.parent / "images.tar", pairs.parent / "images") if path.exists()]
    if files_of(pairs)[0].exists() and not existing:
        raise CcmbError(f"{pairs.parent / 'images.tar'}: no such tar; say with --images where the images are")
    return existing[0] if existing else pairs.parent / "images.tar"


def _check_image(line: dict[str, object], where: str) -> str:
    image = line.get("image")
    if not isinstance(image, str) or not image:
        raise CcmbError(f'{where}: no "image": each line needs the name of its image')
    _check_unicode(image, f'{where}: "image"')
    return image_key(image)


def _text_fields(line: dict[str, object]) -> list[str]:
    return [key for key, value in line.items() if key not in (*_NOT_TEXTS, _LANGUAGE) and _is_text(value)]


def _texts(line: dict[str, object], fields: Sequence[str], where: str) -> tuple[tuple[str, ...], ...]:
    """The texts of each field; an empty tuple for a field that the line lacks."""
    return tuple(tuple(_texts_of(line, field, where)) for field in fields)


def _texts_of(line: dict[str, object], asked: str, where: str) -> Iterable[str]:
    """The texts of a field, `FIELD` or `FIELD@LANGUAGE`."""
    field, _, language = (asked, "", "") if asked in line else asked.partition(AT)
    if field not in line:
        return
    value, where = line[field], f'{where}: "{field}"'
    texts = [value] if isinstance(value, str) or _has_text(value) else value
    if not isinstance(texts, list) or not texts:
        raise CcmbError(f"{where} must be a text or a list of texts")
    for position, text in enumerate(texts):
        holder: dict[str, object] = text if _has_text(text) else {"text": text}
        text, own = holder["text"], holder.get(_LANGUAGE, line.get(_LANGUAGE))
        if not isinstance(text, str) or not text.strip():
            raise CcmbError(f"{where}[{position}] is not a text or empty; remove it or write one")
        _check_unicode(text, f"{where}[{position}]")
        if not language or _is_language(own, language, f"{where}[{position}]"):
            yield text.strip()


def _is_language(own: object, language: str, where: str) -> bool:
    """Raises CcmbError: the text says no language, or no tag of one."""
    if not isinstance(own, str):
        raise CcmbError(f'{where} says no "{_LANGUAGE}", and texts of {language} are asked for')
    try:
        return tag_of(own) == language
    except UsageError as error:
        raise CcmbError(f"{where}: {error}") from None


def _check_unicode(text: str, where: str) -> None:
    """Refuse lone surrogates: JSON can escape them, but neither tokenizers nor UTF-8 files take them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CcmbError(f"{where} holds half a surrogate pair; remove the lone \\uD8xx or \\uDCxx") from None


def _is_text(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) or _has_text(item) for item in texts)


def _has_text(item: object) -> TypeGuard[dict[str, object]]:
    return isinstance(item, dict) and "text" in item
