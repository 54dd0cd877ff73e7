"""ECommerce-T2I: `T2I_{split}.text.tsv`, an id and a text, and `T2I_{split}.img.tsv`, an id and an image in base64.

Its description calls the texts `T2I_{split}.txt.tsv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, DatasetQuery, present_queries, samples_of_queries
from ccmb.datasets.formats.lenient_lines import id_of, read_lines, text_of
from ccmb.datasets.formats.tsv_packs import PackedImages
from ccmb.datasets.locate import find_all, find_file, split_words
from ccmb.datasets.problems import BAD_LINE, Problems


def read_ecommerce(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split. If its images do not exist, as in a test set to be submitted, it has only queries.

    Raises:
        CcmbError: the texts are missing, or nothing in them can be used.
    """
    problems = Problems()
    path = find_file(folder, [f"T2I_{word}.{kind}.tsv" for word in split_words(split) for kind in ("text", "txt")])
    packs = [images] if images else find_all(folder, [f"T2I_{word}.img.tsv" for word in split_words(split)])
    image_source = PackedImages(packs[0] if packs else folder, packs, problems)
    queries = present_queries(_texts(path, problems, bool(packs)), image_source, problems)
    return Dataset(
        card,
        split,
        samples=samples_of_queries(queries, split),
        images=image_source,
        gallery=image_source.names,
        skipped=problems,
        queries=queries,
    )


def _texts(path: Path, problems: Problems, has_images: bool) -> Iterator[DatasetQuery]:
    for where, line in read_lines(path, problems):
        key, tab, written = line.lstrip("\ufeff").partition("\t")
        query_id = id_of(key)
        if not tab or query_id is None:
            problems.add(BAD_LINE, f"{where}: no tab between id and text")
        elif (text := text_of(written, where, problems)) is not None:
            yield DatasetQuery(query_id, text, (query_id,) if has_images else (), where)
