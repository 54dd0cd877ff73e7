"""ICM and IQM (matching), ICR and IQR (retrieval): JSON lines `text`, `image_path` and, for matching, `label`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ccmb.data.labelled_pairs import as_label
from ccmb.data.sample import Sample
from ccmb.datasets.cards import Card
from ccmb.datasets.dataset import (  # fmt: skip
    Dataset,
    DatasetQuery,
    by_name,
    nothing_left,
    present_queries,
    samples_of_queries,
)
from ccmb.datasets.formats.by_basename import NamedImages
from ccmb.datasets.formats.lenient_lines import id_of, read_objects, text_of
from ccmb.datasets.formats.tsv_packs import PackedImages
from ccmb.datasets.locate import find_all, find_file, open_images
from ccmb.datasets.problems import BAD_LINE, Problems

# The images of the paper's own sets, except those of Flickr30k-CNA, come as one pack beside the folders of the sets.
PACK = "IQR_IQM_ICR_ICM_images"
_STEMS = {"icm": "long_itm", "iqm": "short_itm", "icr": "long_itr", "iqr": "short_itr"}


def read_matching(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """ICM or IQM: a sample for each labelled pair.

    Raises:
        CcmbError: a file is missing, or nothing in it can be used.
    """
    problems = Problems()
    path = find_file(folder, _patterns(card, split))
    image_source = _images(folder, images, problems)
    samples = []
    for where, text, written, line in _pairs(path, problems):
        label = as_label(line.get("label"))
        if label is None:
            problems.add(BAD_LINE, f"{where}: the label must be 0 or 1")
        elif name := by_name(written, where, image_source, problems):
            samples.append(Sample(name, (text,), split, extra={"label": label}, fields=((text,),)))
    if not samples:
        raise nothing_left(image_source, problems)
    gallery = list(dict.fromkeys(sample.image for sample in samples))
    return Dataset(card, split, samples=samples, images=image_source, gallery=gallery, skipped=problems)


def read_pairs_of_zero(card: Card, folder: Path, split: str, images: Path | None) -> Dataset:
    """One split of ICR or IQR.

    Raises:
        CcmbError: a file is missing, or nothing in it can be used.
    """
    problems = Problems()
    path = find_file(folder, _patterns(card, split))
    image_source = _images(folder, images, problems)
    read = (
        DatasetQuery(where.rpartition(":")[2], text, (written,), where)
        for where, text, written, _ in _pairs(path, problems)
    )
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


def _patterns(card: Card, split: str) -> list[str]:
    name = f"{_STEMS[card.name]}_{split}.json"
    return [name, f"{split}/{name}"]


def _images(folder: Path, images: Path | None, problems: Problems) -> NamedImages:
    """A folder or tar of images, or base64 packs in a folder or beside the lines."""
    if images is None:
        images = next((pack for pack in (folder / PACK, folder.absolute().parent / PACK) if pack.is_dir()), None)
    packs = [images] if images and images.suffix == ".tsv" else find_all(images or folder, ["*.tsv"])
    if packs:
        return NamedImages(PackedImages(images or folder, packs, problems))
    return open_images(folder, images)


def _pairs(path: Path, problems: Problems) -> Iterator[tuple[str, str, str, dict[str, object]]]:
    for where, line in read_objects(path, problems):
        text, written = text_of(line.get("text"), where, problems), id_of(line.get("image_path"))
        if text is None:
            continue
        if written is None:
            problems.add(BAD_LINE, f'{where}: no "image_path"')
        else:
            yield where, text, written, line
