"""ImageNet with Chinese class names: one folder of pictures a class, a class-name file, prompt templates.

A line of the class-name file is `FOLDER<TAB>name<TAB>other name`, or the name alone, one for each folder in the order
of their names. A line of the templates holds {} where the name goes.
"""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, nothing_left
from ccmb.datasets.formats.lenient_lines import read_lines
from ccmb.datasets.locate import MissingFile, split_words
from ccmb.datasets.problems import BAD_LINE, BAD_TEMPLATE, NO_CLASS, REPEATED_ID, Problems

CLASS_FILES = ("classes.txt", "classes.tsv", "label_cn.txt")
TEMPLATE_FILES = ("templates.txt", "prompts.txt")


def read_class_folders(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split: a sample for each picture of a class that has a name.

    Raises:
        CcmbError: a folder or file is missing, names and folders do not fit, or nothing can be used.
    """
    problems = Problems()
    root = images or _root(folder, split)
    pictures = ImageSource.open(root)
    folders = sorted({name.split("/")[0] for name in pictures.names if "/" in name})
    if not folders:
        raise MissingFile(f"{root}: no folders of pictures, one a class, in it")
    names = _class_names(_first(folder, CLASS_FILES), folders, problems)
    numbers = {of_class: number for number, of_class in enumerate(names)}
    samples = []
    for picture in pictures.names:
        of_class = picture.split("/")[0]
        if of_class in numbers:
            texts = names[of_class]
            samples.append(Sample(picture, texts, split, extra={"label": numbers[of_class]}, fields=(texts,)))
    for of_class in folders:
        if of_class not in numbers:
            problems.add(NO_CLASS, f"{root}/{of_class}: the class-name file has no such folder")
    if not samples:
        raise nothing_left(pictures, problems)
    return Dataset(
        card, split, samples=samples, pictures=pictures, gallery=[sample.image for sample in samples], skipped=problems,
        classes=list(names.values()), templates=_templates(folder, problems),
    )  # fmt: skip


def _root(folder: Path, split: str) -> Path:
    """The folder of the split, or the whole folder where it has no folders of splits."""
    found = next((folder / word for word in split_words(split) if (folder / word).is_dir()), None)
    if found is not None:
        return found
    if split != "val" or any((folder / other).is_dir() for other in ("train", "test")):
        raise MissingFile(f"{folder}: no folder '{split}' in it")
    return folder


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise MissingFile(f"{folder}: no {' or '.join(names)} in it")
    return found


def _class_names(path: Path, folders: list[str], problems: Problems) -> dict[str, tuple[str, ...]]:
    """The names of each class by its folder, in the order of the folders' names."""
    lines = [(where, line.strip().lstrip("\ufeff").split("\t")) for where, line in read_lines(path, problems)]
    if all(len(parts) == 1 for _, parts in lines):
        if len(lines) != len(folders):
            mend = "write FOLDER<TAB>name in each line"
            raise CcmbError(f"{path}: {len(lines)} names for {len(folders)} folders of pictures; {mend}")
        lines = [(where, [of_class, *parts]) for of_class, (where, parts) in zip(folders, lines, strict=True)]
    names: dict[str, tuple[str, ...]] = {}
    for where, (of_class, *parts) in lines:
        texts = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if not texts:
            problems.add(BAD_LINE, f"{where}: no name after the folder and a tab")
        elif of_class.strip() in names:
            problems.add(REPEATED_ID, f"{where}: folder {of_class.strip()} is there twice")
        else:
            names[of_class.strip()] = texts
    return dict(sorted(names.items()))


def _templates(folder: Path, problems: Problems) -> tuple[str, ...]:
    path = next((folder / name for name in TEMPLATE_FILES if (folder / name).is_file()), None)
    if path is None:
        return ("{}",)
    kept = []
    for where, line in read_lines(path, problems):
        text = line.strip()
        if text.count("{}") == 1:
            kept.append(text)
        else:
            problems.add(BAD_TEMPLATE, f"{where}: {text}")
    return tuple(kept) or ("{}",)
