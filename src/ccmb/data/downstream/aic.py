"""AIC-ICC: one JSON list of `image_id` and `caption`, a list of five, beside a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ccmb.data.downstream.cards import Card
from ccmb.data.downstream.dataset import Dataset, Query, present_queries, samples_of_queries
from ccmb.data.downstream.lines import id_of, read_list, text_of
from ccmb.data.downstream.locate import find_file, open_pictures, split_words
from ccmb.data.downstream.problems import BAD_LINE, REPEATED_ID, Problems


def read_aic(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split.

    Raises:
        CcmbError: a file is missing or ambiguous, the annotations are no JSON list, or nothing of it can be used.
    """
    problems = Problems()
    words = split_words(split)
    path = find_file(folder, [f"caption_{word}_annotations_*.json" for word in words])
    places = sorted(place.name for word in words for place in path.parent.glob(f"caption_{word}_images_*"))
    pictures = open_pictures(path.parent if places else folder, images, places)
    queries = present_queries(_captions(path, problems), pictures, problems)
    samples = samples_of_queries(queries, split)
    return Dataset(card, split, samples, pictures, [sample.image for sample in samples], problems, queries)


def _captions(path: Path, problems: Problems) -> Iterator[Query]:
    seen: set[str] = set()
    for where, entry in read_list(path, problems):
        image, captions = id_of(entry.get("image_id")), entry.get("caption")
        if image is None or not isinstance(captions, list):
            problems.add(BAD_LINE, f'{where}: it needs "image_id" and "caption", a list of texts')
        elif image in seen:
            problems.add(REPEATED_ID, f"{where}: picture {image} is there twice")
        else:
            seen.add(image)
            for place, caption in enumerate(captions):
                if (text := text_of(caption, f"{where}.caption[{place}]", problems)) is not None:
                    yield Query(f"{image}#{place}", text, (image,), where)
