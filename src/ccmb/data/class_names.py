"""Classes by their Chinese names: lists that ship with the package, own files, or names on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError, UsageError, did_you_mean
from ccmb.core.files import read_json
from ccmb.core.text.files import text_lines

SHIPPED = ("cifar10", "cifar100", "imagenet")
FILE_SUFFIXES = (".json", ".txt")
_BETWEEN_CLASSES = re.compile("[,;\uff0c\uff1b\u3001]")  # ASCII and Chinese commas and semicolons
_BETWEEN_NAMES = re.compile("[/|\uff0f\uff5c]")


@dataclass(frozen=True, slots=True)
class ImageClass:
    """One class.

    Attributes:
        names: in Chinese; the first is the usual one, others are synonyms.
        english: the data set's own label, if there is one.
        wnid: WordNet id such as n01440764, if it is known.
    """

    names: tuple[str, ...]
    english: str | None = None
    wnid: str | None = None

    @property
    def name(self) -> str:
        return self.names[0]


def read_classes(source: str | Path) -> list[ImageClass]:
    """The classes that a user names: `imagenet`, `cifar10` or `cifar100`, a JSON or text file, or 猫/猫咪,狗,汽车.

    A text file holds one class a line. Names of one class stand between slashes. JSON is a list of names or of lists of
    names, an object from label to name or names, or has the form of the shipped lists.

    Raises:
        UsageError: it is no such list and no names.
        CcmbError: a file is missing or faulty, a name is empty or there twice, or there are less than two classes; the
            message names file and class.
    """
    text = str(source).strip()
    if text in SHIPPED:
        return _checked(_from_json(read_json(str(files("ccmb.data") / "classes" / f"{text}.json")), text), text)
    path = Path(text).expanduser()
    if path.suffix.lower() in FILE_SUFFIXES or path.is_file():
        read = _from_json(read_json(path), text) if path.suffix.lower() == ".json" else _from_lines(path)
        return _checked(read, text)
    words = [word.strip() for word in _BETWEEN_CLASSES.split(text) if word.strip()]
    if len(words) < 2:
        hint = did_you_mean(text, list(SHIPPED))
        raise UsageError(
            f"'{text}': no such class list{hint}; give one of {', '.join(SHIPPED)}, a file, or names such as 猫,狗"
        )
    return classes_of_names(words, "--classes")


def classes_of_names(names: Sequence[str], where: str = "classes") -> list[ImageClass]:
    """Classes by their names, synonyms between slashes.

    Raises:
        CcmbError: a name is empty or there twice, or there are less than two classes; the message names `where`.
    """
    return _checked([ImageClass(_split_names(name)) for name in names], where)


def _from_lines(path: Path) -> list[ImageClass]:
    lines = text_lines(path, fix="give a class list of one class a line")
    return [ImageClass(_split_names(line)) for line in lines if line.strip()]


def _split_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in _BETWEEN_NAMES.split(text) if name.strip())


def _from_json(value: Any, where: str) -> list[ImageClass]:
    classes = value.get("classes", value) if isinstance(value, dict) else value
    if isinstance(classes, dict):
        return [_class_of(key, value_of_class, where) for key, value_of_class in classes.items()]
    if isinstance(classes, list):
        return [
            ImageClass(_names(value_of_class, f"{where}: class {index}"))
            for index, value_of_class in enumerate(classes)
        ]
    raise CcmbError(f"{where}: give a list of classes, or an object from label to Chinese names")


def _class_of(key: str, value: Any, where: str) -> ImageClass:
    where = f"{where}: class '{key}'"
    if not isinstance(value, dict):
        return ImageClass(_names(value, where), english=key)
    english, wnid = value.get("english"), value.get("wnid")
    if not all(label is None or isinstance(label, str) for label in (english, wnid)):
        raise CcmbError(f'{where}: "english" and "wnid" must be texts or null')
    return ImageClass(_names(value.get("names"), where), english, wnid)


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise CcmbError(f"{where}: needs a Chinese name, or a list of them")
    return tuple(name.strip() for name in names)


def _checked(classes: Sequence[ImageClass], where: str) -> list[ImageClass]:
    if len(classes) < 2:
        raise CcmbError(f"{where}: {len(classes)} classes; there must be two or more to choose from")
    seen: dict[str, int] = {}
    for index, image_class in enumerate(classes):
        if not image_class.names:
            raise CcmbError(f"{where}: class {index} has no name")
        for name in image_class.names:
            if name in seen:
                raise CcmbError(f"{where}: '{name}' is a name of class {seen[name]} and of class {index}; remove one")
            seen[name] = index
    return list(classes)
