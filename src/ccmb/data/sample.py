"""A sample: the name of an image, its texts, and the split and groups that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its texts.

    Attributes:
        image: the image's name in its folder or tar; samples with equal names are positives of each other.
        texts: at least one text, none of them empty.
        split: "train", "val", "test" or another name the data uses.
        group: samples with equal groups are near-duplicates that a batch should hold together; None stands alone.
        extra: the other values of the data file's line.
        fields: the same texts by field, in the order in which the fields were asked for; a field that the line lacks is
            empty.
        swapped_id: samples with equal ids are attribute-swapped counterparts: they hold the same things with swapped
            attributes (a red boat and a blue fish, a blue boat and a red fish). None: the sample has no counterpart.
            In `pairs.jsonl` and in shards the key is `twin`.
    """

    image: str
    texts: tuple[str, ...]
    split: str = "train"
    group: str | None = None
    extra: dict[str, object] | None = None
    fields: tuple[tuple[str, ...], ...] = ()
    swapped_id: str | None = None
