"""AIC-ICC: one JSON list of `image_id` and `caption`, a list of five, beside a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ccmb.data.grouping import image_key
from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import Dataset, DatasetQuery, present_queries, samples_of_queries
from ccmb.datasets.formats.lenient_lines import id_of, read_list, text_of
from ccmb.datasets.locate import find_file, open_images, split_words
from ccmb.datasets.problems import BAD_LINE, REPEATED_ID, Problems


def read_aic(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split.

    Raises:
        CcmbError: a file is missing or ambiguous, the annotations are no JSON list, or nothing of it can be used.
    """
    problems = Problems()
    words = split_words(split)
    path = find_file(folder, [f"caption_{word}_annotations_*.json" for word in words])
    folders = sorted(
        path_of_images.name for word in words for path_of_images in path.parent.glob(f"caption_{word}_images_*")
    )
    image_source = open_images(path.parent if folders else folder, images, folders)
    queries = present_queries(_captions(path, problems), image_source, problems)
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


def _captions(path: Path, problems: Problems) -> Iterator[DatasetQuery]:
    """The captions as queries.

    If an image has several entries, their captions are numbered consecutively. An entry without a new caption counts
    as repeated.
    """
    seen: dict[str, list[object]] = {}
    for where, entry in read_list(path, problems):
        image, captions = id_of(entry.get("image_id")), entry.get("caption")
        if image is None or not isinstance(captions, list):
            problems.add(BAD_LINE, f'{where}: an entry needs "image_id" and "caption", a list of texts')
        else:
            known = seen.setdefault(image_key(image), [])
            first = len(known)
            new = [(index, caption) for index, caption in enumerate(captions) if not first or caption not in known]
            if first and not new:
                problems.add(REPEATED_ID, f"{where}: image {image} occurs twice")
            for caption_number, (index, caption) in enumerate(new, start=first):
                known.append(caption)
                if (text := text_of(caption, f"{where}.caption[{index}]", problems)) is not None:
                    yield DatasetQuery(f"{image_key(image)}#{caption_number}", text, (image,), where)
