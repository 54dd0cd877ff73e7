"""Flickr8k-CN in the form of custom pairs: `captions.jsonl` or `pairs.jsonl`, with `images.tar` or a folder."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.data.grouping import merge_by_image
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import sample_of_line
from ccmb.data.sample import Sample
from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, DatasetQuery, nothing_left
from ccmb.datasets.formats.lenient_lines import read_objects
from ccmb.datasets.locate import MissingFile, find_file
from ccmb.datasets.problems import BAD_LINE, NO_IMAGE, Problems

FIELDS = ("captions", "mt_baidu")


def read_custom_form(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split. The captions that people wrote and the machine translations are separate fields.

    The queries are the captions that people wrote. An image may have one line, or one line for each text, see
    `merge_by_image`.

    Raises:
        CcmbError: a file is missing, or nothing in it can be used.
    """
    problems = Problems()
    path = find_file(folder, ["captions.jsonl", "pairs.jsonl"])
    tar = path.parent / "images.tar"
    image_source = ImageSource.open(images or (tar if tar.exists() else path.parent / "images"))
    lines: list[Sample] = []
    where_of: dict[str, str] = {}
    splits: set[object] = set()
    for where, line in read_objects(path, problems):
        splits.add(str(line.get("split", "train")))
        if str(line.get("split", "train")) != split:
            continue
        try:
            sample = sample_of_line(line, FIELDS, where)
        except CcmbError as error:
            problems.add(BAD_LINE, str(error))
            continue
        if sample.image not in image_source:
            problems.add(NO_IMAGE, f"{where}: no image {sample.image} in {image_source.path}")
        else:
            lines.append(sample)
            where_of.setdefault(sample.image, where)
    if splits and split not in splits:
        raise MissingFile(f"{path}: no lines of split '{split}'")
    if not lines:
        raise nothing_left(image_source, problems)
    samples = merge_by_image(lines)
    queries = [
        DatasetQuery(f"{sample.image}#{n}", text, (sample.image,), where_of[sample.image])
        for sample in samples
        for n, text in enumerate(sample.fields[0])
    ]
    return Dataset(
        card,
        split,
        samples=samples,
        images=image_source,
        gallery=list(where_of),
        skipped=problems,
        queries=queries,
        fields=FIELDS,
    )
