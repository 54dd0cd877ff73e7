"""Sets with texts in many languages: XM3600, XTD10, XTD200, Flickr30k-200, xFlickr&CO, Multi30k and WIT of IGLUE.

A field of their samples is a language's tag, and texts are as published. The queries are those of one language, Chinese
or else English; `--languages` measures any. Forms: github.com/google/crossmodal-3600,
github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10, github.com/visheratin/nllb-clip, github.com/e-bug/iglue,
github.com/multi30k/dataset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.text.files import text_lines
from ccmb.data.languages import tag_of
from ccmb.data.sample import Sample
from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, DatasetQuery, by_name, nothing_left
from ccmb.datasets.formats.lenient_lines import id_of, read_objects, text_of
from ccmb.datasets.locate import MissingFile, find_all, find_file, open_images
from ccmb.datasets.problems import BAD_LINE, Problems

QUERIED = ("zh", "en")  # the first of these that a set has is the language of its queries
PUBLISHED = {"jp": "ja"}  # what file names call a language -> its tag
NAMES = ("test_image_names.txt", "image_names.txt")
FLORES = re.compile(r"([a-z]{3})_([A-Z][a-z]{3})")


class Text(NamedTuple):
    """One text: its field (a language's tag), its image as the files call it, and where it stands."""

    field: str
    image: str
    text: str
    where: str


Read = Callable[[Path, str, Problems], Iterator[Text]]


def read_languages(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split.

    Raises:
        CcmbError: a file is missing or ambiguous, files that belong together differ in length, or nothing can be used.
    """
    problems, source = Problems(), open_images(folder, images)
    by_image: dict[str, dict[str, list[str]]] = {}
    fields: dict[str, None] = {}
    queries: list[tuple[str, DatasetQuery]] = []
    named: dict[str, str | None] = {}  # each missing image counts once
    for text in READ[card.name](folder, split, problems):
        if text.image not in named:
            named[text.image] = by_name(text.image, text.where, source, problems)
        if (name := named[text.image]) is None:
            continue
        fields[text.field] = None
        texts = by_image.setdefault(name, {}).setdefault(text.field, [])
        queries.append((text.field, DatasetQuery(f"{name}#{text.field}{len(texts)}", text.text, (name,), text.where)))
        texts.append(text.text)
    if not queries:
        raise nothing_left(source, problems)
    order = sorted(fields, key=lambda field: (QUERIED.index(field) if field in QUERIED else len(QUERIED), field))
    samples = [_sample(name, split, texts, order) for name, texts in by_image.items()]
    return Dataset(
        card,
        split,
        samples=samples,
        images=source,
        gallery=[sample.image for sample in samples],
        skipped=problems,
        queries=[query for field, query in queries if field == order[0]],
        fields=tuple(order),
    )


def _sample(name: str, split: str, texts: dict[str, list[str]], order: list[str]) -> Sample:
    fields = tuple(tuple(texts.get(field, ())) for field in order)
    return Sample(name, sum(fields, ()), split, fields=fields)


def _xm3600(folder: Path, split: str, problems: Problems) -> Iterator[Text]:
    """`captions.jsonl`: `image/key`, and for each language an object whose `caption` is a list of texts."""
    for where, line in read_objects(find_file(folder, ["captions.jsonl"]), problems):
        if (image := id_of(line.get("image/key"))) is None:
            problems.add(BAD_LINE, f'{where}: no "image/key"')
            continue
        for key, value in line.items():
            if not isinstance(value, dict):
                continue
            captions = value.get("caption")
            tag = _tag(key)
            if tag is None or not isinstance(captions, list):
                problems.add(BAD_LINE, f'{where}: "{key}" needs "caption", a list of texts in one language')
                continue
            yield from _each(captions, tag, image, f"{where}.{key}", problems)


def _line_files(folder: Path, split: str, problems: Problems) -> Iterator[Text]:
    """A file of image names, and files of a language with a text for each, line by line."""
    names = find_file(folder, NAMES)
    images = _lines(names)
    files = {path: tag for path in find_all(folder, ["*.txt"]) if (tag := _tag_of_file(path.stem)) is not None}
    if not files:
        files = {path: tag for path in sorted(folder.rglob("*.txt")) if (tag := _tag_of_file(path.stem)) is not None}
    if not files:
        raise MissingFile(f"{folder}: no test_1kcaptions_LANGUAGE.txt or LANGUAGE.txt")
    for path, tag in files.items():
        yield from _beside(path, tag, names, images, problems)


def _tag_of_file(stem: str) -> str | None:
    """The language of `test_1kcaptions_zh`, `zho_Hans` or `eng_captions`; None of other files."""
    if match := FLORES.fullmatch(stem):
        return f"{match[1]}-{match[2]}"
    if stem == "eng_captions":
        return "en"
    prefix, _, language = stem.rpartition("_")
    return _tag(language) if prefix == "test_1kcaptions" else None


def _xflickrco(folder: Path, split: str, problems: Problems) -> Iterator[Text]:
    """`LANGUAGE/test.jsonl`: `img_path` and `sentences`; `test_gmt.jsonl` holds them translated into English."""
    paths = sorted(path for path in folder.rglob(f"{split}*.jsonl") if path.stem in (split, f"{split}_gmt"))
    if not paths:
        raise MissingFile(f"{folder}: no LANGUAGE/{split}.jsonl")
    for path in paths:
        tag = _tag(path.parent.name)
        if tag is None:
            raise CcmbError(f"{path}: its folder is called {path.parent.name!r}, no language's tag")
        field = tag if path.stem == split else f"{tag}>en"
        for where, line in read_objects(path, problems):
            image, sentences = id_of(line.get("img_path")), line.get("sentences")
            if image is None or not isinstance(sentences, list):
                problems.add(BAD_LINE, f'{where}: needs "img_path" and "sentences", a list of texts')
                continue
            yield from _each(sentences, field, image, f"{where}.sentences", problems)


def _multi30k(folder: Path, split: str, problems: Problems) -> Iterator[Text]:
    """Task 1, a translation each, in fields of the languages; task 2, five descriptions each, in `de_5` and `en_5`."""
    read = False
    for task, stem, field_of in (
        ("task1", split, lambda language: language),
        ("task2", split.removesuffix("_flickr"), lambda language: f"{language}_5"),
    ):
        splits, raw = folder / "data" / task / "image_splits", folder / "data" / task / "raw"
        names = splits / (f"{stem}.txt" if task == "task1" else f"{stem}_images.txt")
        if not names.is_file():
            continue
        images = [line.partition("#")[0] for line in _lines(names)]
        pattern = re.compile(re.escape(stem) + r"(?:\.\d)?\.([a-z]{2})(?:\.gz)?")
        for path in sorted(raw.glob(f"{stem}.*")):
            if (match := pattern.fullmatch(path.name)) is not None:
                read = True
                yield from _beside(path, field_of(match[1]), names, images, problems)
    if not read:
        raise MissingFile(f"{folder}: no data/task1/raw/{split}.LANGUAGE.gz with data/task1/image_splits/{split}.txt")


def _wit(folder: Path, split: str, problems: Problems) -> Iterator[Text]:
    """`SPLIT_LANGUAGE.jsonl`: `language` and `caption_reference_description`; images by `wit_ix` or `image_url`."""
    paths = sorted(path for path in folder.rglob(f"{split}_*.jsonl") if path.stem.count("_") == 1)
    if not paths:
        raise MissingFile(f"{folder}: no {split}_LANGUAGE.jsonl")
    for path in paths:
        for where, line in read_objects(path, problems):
            tag, url = _tag(str(line.get("language"))), line.get("image_url")
            image = id_of(line.get("wit_ix")) or (_name_in_url(url) if isinstance(url, str) else None)
            if tag is None or image is None:
                problems.add(BAD_LINE, f'{where}: needs "language", and "wit_ix" or "image_url"')
            elif (text := text_of(line.get("caption_reference_description"), where, problems)) is not None:
                yield Text(tag, image, text, where)


def _each(values: list[Any], field: str, image: str, where: str, problems: Problems) -> Iterator[Text]:
    """The texts of a list; others are counted."""
    for index, value in enumerate(values):
        if (text := text_of(value, f"{where}[{index}]", problems)) is not None:
            yield Text(field, image, text, where)


def _name_in_url(url: str) -> str | None:
    try:
        return unquote(urlsplit(url).path).rpartition("/")[2] or None
    except ValueError:
        return None


def _beside(path: Path, field: str, names: Path, images: list[str], problems: Problems) -> Iterator[Text]:
    """The texts of a file whose lines stand beside those of another."""
    texts = _lines(path)
    if len(texts) != len(images):
        raise CcmbError(f"{path}: {len(texts):,} lines beside {len(images):,} of {names}; download both again")
    for number, (image, line) in enumerate(zip(images, texts, strict=True), start=1):
        if (text := text_of(line, f"{path}:{number}", problems)) is not None:
            yield Text(field, image, text, f"{path}:{number}")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in text_lines(path)]


def _tag(published: str) -> str | None:
    try:
        return tag_of(PUBLISHED.get(published, published))
    except UsageError:
        return None


READ: dict[str, Read] = {
    "xm3600": _xm3600,
    "xtd10": _line_files,
    "xtd200": _line_files,
    "flickr30k-200": _line_files,
    "xflickrco": _xflickrco,
    "multi30k": _multi30k,
    "wit": _wit,
}
