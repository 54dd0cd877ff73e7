"""One way to open any of the data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.data.other_forms import refuse_other_forms
from ccmb.datasets.cards import Card, find_card
from ccmb.datasets.dataset import Dataset
from ccmb.datasets.formats.aic_icc import read_aic
from ccmb.datasets.formats.ecommerce_t2i import read_ecommerce
from ccmb.datasets.formats.flickr8k_cn import read_custom_form
from ccmb.datasets.formats.flickr30k_coco import read_captions
from ccmb.datasets.formats.icm_iqm_icr_iqr import read_matching, read_pairs_of_zero
from ccmb.datasets.formats.imagenet import read_class_folders
from ccmb.datasets.formats.muge import is_packed, read_queries
from ccmb.datasets.formats.multilingual import READ, read_languages
from ccmb.datasets.locate import MissingFile, known_split

Reader = Callable[[Card, Path, str, Path | None], Dataset]


def open_dataset(name: str, folder: str | Path, split: str, images: str | Path | None = None) -> Dataset:
    """One split of a data set in the user's folder, read in its published form.

    Args:
        name: the name of the data set, see `CARDS`.
        split: the card's name of the split, or a word that files use ("valid" is "val").
        images: the folder, tar or pack of the images, if they lie elsewhere.

    Raises:
        UsageError: there is no such data set or split.
        CcmbError: a file is missing or cannot be read, or nothing of the split can be used. Problems of single lines
            raise no error; they are counted in `Dataset.skipped`.
    """
    card, folder = find_card(name), Path(folder)
    split = known_split(split, [published.name for published in card.splits], card.title)
    if not folder.is_dir():
        raise CcmbError(f"{folder}: no such folder; {card.title} needs: {card.download.en}")
    if images is not None and not Path(images).exists():
        raise CcmbError(f"{images}: no such folder, tar or pack of images")
    try:
        return _reader(card, folder, split)(card, folder, split, None if images is None else Path(images))
    except MissingFile as error:
        refuse_other_forms(folder)
        raise MissingFile(f"{error}; {card.title} needs: {card.download.en}") from None


def _reader(card: Card, folder: Path, split: str) -> Reader:
    if card.name in ("flickr30k-cn", "coco-cn") and is_packed(folder, split):
        return read_queries
    return _READERS[card.name]


_READERS: dict[str, Reader] = {
    "flickr30k-cn": read_captions,
    "coco-cn": read_captions,
    "aic-icc": read_aic,
    "muge": read_queries,
    "flickr30k-cna": read_captions,
    "icr": read_pairs_of_zero,
    "iqr": read_pairs_of_zero,
    "icm": read_matching,
    "iqm": read_matching,
    "ecommerce-t2i": read_ecommerce,
    "imagenet": read_class_folders,
    "flickr8k-cn": read_custom_form,
    **dict.fromkeys(READ, read_languages),
}
