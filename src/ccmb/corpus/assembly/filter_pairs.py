"""Filter the pairs again, now that the images are known: each pair belongs to its image or to a representative.

There is one file for each part of the download. It has a row for each pair with its drop reason, in the order of the
images. No pair is lost, and none occurs twice.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.corpus.assembly.schema import filtered_schema, write_rows
from ccmb.corpus.base.recipe import FIELDS
from ccmb.corpus.pairs.by_image import ImageTexts, read_image_texts
from ccmb.corpus.pairs.candidates import DUPLICATE
from ccmb.corpus.pairs.filters import dropped_within_image
from ccmb.corpus.texts.normalize import bare

NO_IMAGE, COPY, TEST_IMAGE = "no picture", "copy of another picture", "test picture"
_KEPT = ("field", "text", "views", "clicks", "bound", "score", "page_url", "domain")


def write_filtered_pairs(pairs: Path, downloads: Path, statuses: Path, recipe: ZeroRecipe, out: Path) -> None:
    """Write the missing files `out/part-000000.parquet` and so on; see `ccmb.corpus.assembly.schema.filtered_schema`.

    Raises:
        CcmbError: the download belongs to other pairs.
    """
    from pyarrow import parquet

    decisions = parquet.read_table(statuses).to_pydict()
    duplicate_texts = _texts_of_duplicates(pairs, decisions) if recipe.image_dedup.merge_texts else {}
    images, first = read_image_texts(pairs), 0
    parts = sorted(downloads.glob("part-*.parquet"))
    with progress("pairs", len(parts), "parts") as advance:
        for part in parts:
            urls = parquet.read_table(part, columns=["url"])["url"].to_pylist()
            part_images = list(itertools.islice(images, len(urls)))
            if [image.url for image in part_images] != urls:
                raise CcmbError(f"{part}: does not belong to the images of {pairs}; remove the folder and build again")
            if not (path := out / part.name).exists():
                write_rows(
                    list(_rows_of_part(part_images, first, decisions, duplicate_texts, recipe)),
                    filtered_schema(),
                    path,
                )
            first += len(urls)
            advance(1)


def _texts_of_duplicates(pairs: Path, decisions: dict[str, list[Any]]) -> dict[int, list[tuple[int, dict[str, Any]]]]:
    """The texts of the near-duplicates, by the row of the representative; each with the row of its own image."""
    texts: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for row, (image, representative) in enumerate(zip(read_image_texts(pairs), decisions["copy_of"], strict=True)):
        if representative is not None:
            texts[representative] += [(row, text) for text in image.texts]
    return texts


def _rows_of_part(
    images: list[ImageTexts],
    first: int,
    decisions: dict[str, list[Any]],
    duplicate_texts: dict[int, list[tuple[int, dict[str, Any]]]],
    recipe: ZeroRecipe,
) -> Iterator[dict[str, Any]]:
    for row, image in enumerate(images, start=first):
        reasons: Sequence[str | None]
        status, own = decisions["status"][row], [(row, text) for text in image.texts]
        if status == "ok":
            texts = own + duplicate_texts.get(row, [])
            reasons = _reasons_among(texts, recipe) if len(texts) > len(own) else [None] * len(own)
        elif decisions["copy_of"][row] is not None:
            texts = own if not recipe.image_dedup.merge_texts else []
            reasons = [COPY] * len(texts)
        else:
            texts, reasons = own, [TEST_IMAGE if status == "test_picture" else NO_IMAGE] * len(own)
        sample_position = image.texts[0]["place"]
        for (from_row, text), reason in zip(texts, reasons, strict=True):
            kept = {name: text[name] for name in _KEPT}
            shared = {"row": row, "from_row": from_row, "image_key": image.key, "place": sample_position}
            yield {**shared, **kept, "reason": reason}


def _reasons_among(texts: list[tuple[int, dict[str, Any]]], recipe: ZeroRecipe) -> list[str | None]:
    """The drop reasons of the texts of an image and its near-duplicates: equal, near-duplicate or too many texts."""
    compared = [bare(text["text"]) for _, text in texts]
    rank = {name: index for index, name in enumerate(FIELDS)}
    best: dict[str, int] = {}
    order = sorted(range(len(texts)), key=lambda at: (rank[texts[at][1]["field"]], -(texts[at][1]["bound"] or 0.0), at))
    for at in order:
        best.setdefault(compared[at], at)
    once = [
        (at, compared[at], rank[texts[at][1]["field"]], texts[at][1]["bound"] or 0.0) for at in sorted(best.values())
    ]
    dropped_rows = dropped_within_image(once, recipe.dedup.same_image_threshold, recipe.pairs.max_texts_per_image)
    dropped = {row["pair"]: row["among"] for row in dropped_rows}
    return [dropped.get(at) if best[compared[at]] == at else DUPLICATE for at in range(len(texts))]
