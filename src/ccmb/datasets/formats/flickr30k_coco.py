"""Flickr30k-CNA, Flickr30k-CN and COCO-CN: lines `IMAGE#N<TAB>caption` or `IMAGE#TAG#N caption`, beside split lists.

Published caption files may be cut into words that carry part-of-speech marks; such captions are joined again.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ccmb.data.images.content import SUFFIXES
from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, DatasetQuery, present_queries, samples_of_queries
from ccmb.datasets.formats.lenient_lines import read_lines, text_of
from ccmb.datasets.formats.word_marks import are_cut, without_marks
from ccmb.datasets.locate import MissingFile, find_all, find_file, open_images, split_words
from ccmb.datasets.problems import BAD_LINE, JOINED_TEXT, Problems

_KEY = re.compile(r"(?P<image>[^#]+)#(?:[^#]*#)?\d+")


def read_captions(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split of any of the three sets.

    Raises:
        CcmbError: a file is missing or ambiguous, or nothing in it can be used.
    """
    problems = Problems()
    if card.name == "flickr30k-cna":
        files, listed = [find_file(folder, _names_of_cna(split))], None
    else:
        files, listed = _files(folder, split, problems)
    image_source = open_images(folder, images, ("flickr30k-images", "flickr30k_images"))
    read = (query for path in files for query in _captions(path, problems) if _is_listed(query, listed))
    queries = present_queries(read, image_source, problems)
    samples = samples_of_queries(queries, split)
    return Dataset(
        card,
        split,
        samples=samples,
        images=image_source,
        gallery=[sample.image for sample in samples],
        skipped=problems,
        queries=queries,
    )


def _names_of_cna(split: str) -> list[str]:
    return [f"flickr30k_cna_{word}.txt" for word in split_words(split)]


def _files(folder: Path, split: str, problems: Problems) -> tuple[list[Path], set[str] | None]:
    """The caption files of the split, and the images in its list (None: all images of the files).

    Of several files, those that are not cut into words and those that people wrote are preferred.
    """
    captions = find_all(folder, ["*caption*.txt"])
    if not captions:
        raise MissingFile(f"{folder}: no *caption*.txt in it or up to two folders below")
    words = split_words(split)
    named_after_split = [path for path in captions if any(word in path.name.lower() for word in words)]
    lists = [path for word in words for path in find_all(folder, [f"*{word}.txt"]) if path not in captions]
    for_all_splits = [path for path in captions if not re.search("train|val|test", path.name.lower())]
    if named_after_split:
        return _preferred(named_after_split), None
    if for_all_splits and lists:
        if len(lists) > 1:
            find_file(folder, [path.name for path in lists])  # says which
        return _preferred(for_all_splits), {_stem(line.strip()) for _, line in read_lines(lists[0], problems)}
    raise MissingFile(f"{folder}: no caption file of '{split}' and no list *{split}.txt of its images")


def _preferred(paths: list[Path]) -> list[Path]:
    for unlike, like in (("seg", ""), ("", "written")):
        kept = [path for path in paths if like in path.name.lower() and not (unlike and unlike in path.name.lower())]
        paths = kept or paths
    return paths


def _captions(path: Path, problems: Problems) -> Iterator[DatasetQuery]:
    read = list(_read_captions(path, problems))
    cut = are_cut([query.text for query in read])
    for query in read:
        joined = without_marks(query.text, cut)
        if joined is not None:
            problems.add(JOINED_TEXT, f"{query.where}: {query.text}")
        yield query if joined is None else replace(query, text=joined)


def _read_captions(path: Path, problems: Problems) -> Iterator[DatasetQuery]:
    for where, line in read_lines(path, problems):
        key, tab, text = line.lstrip("\ufeff").strip("\r\n").partition("\t")
        if not tab:
            key, _, text = key.strip().partition(" ")
        match = _KEY.fullmatch(key.strip())
        if match is None:
            problems.add(BAD_LINE, f"{where}: does not begin with IMAGE#N or IMAGE#TAG#N")
        elif (read := text_of(text, where, problems)) is not None:
            yield DatasetQuery(key.strip(), read, (match["image"],), where)


def _is_listed(query: DatasetQuery, listed: set[str] | None) -> bool:
    return listed is None or _stem(query.images[0]) in listed


def _stem(name: str) -> str:
    stem, suffix = posixpath.splitext(posixpath.basename(name))
    return stem if suffix.lower() in SUFFIXES else posixpath.basename(name)
