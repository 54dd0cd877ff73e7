"""ImageNet with Chinese class names: a folder of images for each class, a class-name file, and prompt templates.

A line of the class-name file is `FOLDER<TAB>name<TAB>other name`. Or each line is only a name, in the order of the
folder names. A line of the templates holds {} in the place of the name.
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
    """One split: a sample for each image of a class that has a name.

    Raises:
        CcmbError: a folder or file is missing, the names do not match the folders, or nothing can be used.
    """
    problems = Problems()
    root = images or _root(folder, split)
    image_source = ImageSource.open(root)
    folders = sorted({name.split("/")[0] for name in image_source.names if "/" in name})
    if not folders:
        raise MissingFile(f"{root}: no folders of images, one a class, in it")
    names = _class_names(_first(folder, CLASS_FILES), folders, problems)
    numbers = {class_folder: index for index, class_folder in enumerate(names)}
    samples = []
    for image in image_source.names:
        class_folder = image.split("/")[0]
        if class_folder in numbers:
            texts = names[class_folder]
            samples.append(Sample(image, texts, split, extra={"label": numbers[class_folder]}, fields=(texts,)))
    for class_folder in folders:
        if class_folder not in numbers:
            problems.add(NO_CLASS, f"{root}/{class_folder}: the class-name file has no such folder")
    if not samples:
        raise nothing_left(image_source, problems)
    return Dataset(
        card, split, samples=samples, images=image_source, gallery=[sample.image for sample in samples],
        skipped=problems, classes=list(names.values()), templates=_templates(folder, problems),
    )  # fmt: skip


def _root(folder: Path, split: str) -> Path:
    """The folder of the split, or the whole folder if it has no folders of splits."""
    split_folder = next((folder / word for word in split_words(split) if (folder / word).is_dir()), None)
    if split_folder is not None:
        return split_folder
    if split != "val" or any((folder / other).is_dir() for other in ("train", "test")):
        raise MissingFile(f"{folder}: no folder '{split}' in it")
    return folder


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise MissingFile(f"{folder}: no {' or '.join(names)} in it")
    return path


def _class_names(path: Path, folders: list[str], problems: Problems) -> dict[str, tuple[str, ...]]:
    """The names of each class by its folder, in the order of the folder names."""
    lines = [(where, line.strip().lstrip("\ufeff").split("\t")) for where, line in read_lines(path, problems)]
    if all(len(parts) == 1 for _, parts in lines):
        if len(lines) != len(folders):
            fix = "write FOLDER<TAB>name in each line"
            raise CcmbError(f"{path}: {len(lines)} names for {len(folders)} folders of images; {fix}")
        lines = [(where, [class_folder, *parts]) for class_folder, (where, parts) in zip(folders, lines, strict=True)]
    names: dict[str, tuple[str, ...]] = {}
    for where, (class_folder, *parts) in lines:
        texts = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if not texts:
            problems.add(BAD_LINE, f"{where}: no name after the folder and a tab")
        elif class_folder.strip() in names:
            problems.add(REPEATED_ID, f"{where}: folder {class_folder.strip()} occurs twice")
        else:
            names[class_folder.strip()] = texts
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
