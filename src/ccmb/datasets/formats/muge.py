"""MUGE, and Flickr30k-CN and COCO-CN in the same form: queries as JSON lines with tsv packs of base64 images.

`{split}_texts.jsonl` has `text_id`, `text`, `image_ids`; `{split}_queries.jsonl` has `query_id`, `query_text`,
`item_ids`. Either may begin with `MR_`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, DatasetQuery, present_queries, samples_of_queries
from ccmb.datasets.formats.lenient_lines import id_of, read_objects, text_of
from ccmb.datasets.formats.tsv_packs import PackedImages
from ccmb.datasets.locate import find_all, find_file, split_words
from ccmb.datasets.problems import BAD_LINE, Problems


def is_packed(folder: Path, split: str) -> bool:
    """Whether the folder has the split's queries in this form."""
    return bool(find_all(folder, _query_files(split)))


def read_queries(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split. All images of the pack are the gallery; queries without `image_ids` have no images.

    Raises:
        CcmbError: a file is missing or ambiguous, or nothing in it can be used.
    """
    problems = Problems()
    path = find_file(folder, _query_files(split))
    pack = images or find_file(folder, _names(split, "imgs.tsv"))
    image_source = PackedImages(pack, [pack], problems)
    queries = present_queries(_queries(path, problems), image_source, problems)
    return Dataset(
        card,
        split,
        samples=samples_of_queries(queries, split),
        images=image_source,
        gallery=image_source.names,
        skipped=problems,
        queries=queries,
    )


def _names(split: str, end: str) -> list[str]:
    return [f"{prefix}{word}_{end}" for word in split_words(split) for prefix in ("", "MR_")]


def _query_files(split: str) -> list[str]:
    return [*_names(split, "texts.jsonl"), *_names(split, "queries.jsonl")]


def _queries(path: Path, problems: Problems) -> Iterator[DatasetQuery]:
    for where, line in read_objects(path, problems):
        query_id = id_of(line.get("text_id", line.get("query_id")))
        text = text_of(line.get("text", line.get("query_text")), where, problems)
        images = line.get("image_ids", line.get("item_ids", []))
        named = [id_of(image) for image in images] if isinstance(images, list) else [None]
        if text is None:
            continue
        if query_id is None:
            problems.add(BAD_LINE, f'{where}: no "text_id" or "query_id"')
        elif None in named:
            problems.add(BAD_LINE, f"{where}: the image ids are not a list of ids")
        else:
            yield DatasetQuery(query_id, text, tuple(name for name in named if name is not None), where)
