"""The pairs once more, now that the pictures are known: each goes with its picture, or with the copy that stays.

For each part of the download one file: a row for every pair, those of a picture together, in the pictures' order, with
why it is dropped. No pair is lost and none is there twice.
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
from ccmb.corpus.assembly.schema import judged_schema, write_rows
from ccmb.corpus.base.recipe import FIELDS
from ccmb.corpus.pairs.by_image import PictureTexts, read_picture_texts
from ccmb.corpus.pairs.candidates import DUPLICATE
from ccmb.corpus.pairs.filters import dropped_of_image
from ccmb.corpus.texts.normalize import bare

NO_PICTURE, COPY, TEST_PICTURE = "no picture", "copy of another picture", "test picture"
_KEPT = ("field", "text", "views", "clicks", "bound", "score", "page_url", "domain")


def write_judged_pairs(pairs: Path, downloads: Path, verdicts: Path, recipe: ZeroRecipe, out: Path) -> None:
    """Write what is missing of `out/part-000000.parquet` and so on; see `ccmb.corpus.assembly.schema.judged_schema`.

    Raises:
        CcmbError: the download is not of these pairs.
    """
    from pyarrow import parquet

    judged = parquet.read_table(verdicts).to_pydict()
    copies = _texts_of_copies(pairs, judged) if recipe.image_dedup.merge_texts else {}
    pictures, first = read_picture_texts(pairs), 0
    parts = sorted(downloads.glob("part-*.parquet"))
    with progress("pairs", len(parts), "parts") as advance:
        for part in parts:
            urls = parquet.read_table(part, columns=["url"])["url"].to_pylist()
            here = list(itertools.islice(pictures, len(urls)))
            if [picture.url for picture in here] != urls:
                raise CcmbError(f"{part}: is not of the pictures of {pairs}; remove the folder and build anew")
            if not (path := out / part.name).exists():
                write_rows(list(_rows_of_part(here, first, judged, copies, recipe)), judged_schema(), path)
            first += len(urls)
            advance(1)


def _texts_of_copies(pairs: Path, judged: dict[str, list[Any]]) -> dict[int, list[tuple[int, dict[str, Any]]]]:
    """By the row of the picture that stays, the texts of its copies, each with the row of its own picture."""
    found: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for row, (picture, leader) in enumerate(zip(read_picture_texts(pairs), judged["copy_of"], strict=True)):
        if leader is not None:
            found[leader] += [(row, text) for text in picture.texts]
    return found


def _rows_of_part(
    pictures: list[PictureTexts],
    first: int,
    judged: dict[str, list[Any]],
    copies: dict[int, list[tuple[int, dict[str, Any]]]],
    recipe: ZeroRecipe,
) -> Iterator[dict[str, Any]]:
    for row, picture in enumerate(pictures, start=first):
        reasons: Sequence[str | None]
        status, own = judged["status"][row], [(row, text) for text in picture.texts]
        if status == "ok":
            texts = own + copies.get(row, [])
            reasons = _reasons_among(texts, recipe) if len(texts) > len(own) else [None] * len(own)
        elif judged["copy_of"][row] is not None:
            texts = own if not recipe.image_dedup.merge_texts else []
            reasons = [COPY] * len(texts)
        else:
            texts, reasons = own, [TEST_PICTURE if status == "test_picture" else NO_PICTURE] * len(own)
        place = picture.texts[0]["place"]
        for (from_row, text), reason in zip(texts, reasons, strict=True):
            kept = {name: text[name] for name in _KEPT}
            of_picture = {"row": row, "from_row": from_row, "image_key": picture.key, "place": place}
            yield {**of_picture, **kept, "reason": reason}


def _reasons_among(texts: list[tuple[int, dict[str, Any]]], recipe: ZeroRecipe) -> list[str | None]:
    """Why texts of a picture and its copies are dropped: equal ones, those alike, and those that are too many."""
    compared = [bare(text["text"]) for _, text in texts]
    rank = {name: number for number, name in enumerate(FIELDS)}
    best: dict[str, int] = {}
    order = sorted(range(len(texts)), key=lambda at: (rank[texts[at][1]["field"]], -(texts[at][1]["bound"] or 0.0), at))
    for at in order:
        best.setdefault(compared[at], at)
    once = [
        (at, compared[at], rank[texts[at][1]["field"]], texts[at][1]["bound"] or 0.0) for at in sorted(best.values())
    ]
    found = dropped_of_image(once, recipe.dedup.same_image_threshold, recipe.pairs.max_texts_per_image)
    dropped = {of["pair"]: of["among"] for of in found}
    return [dropped.get(at) if best[compared[at]] == at else DUPLICATE for at in range(len(texts))]
