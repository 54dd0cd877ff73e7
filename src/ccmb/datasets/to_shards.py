"""A downstream data set written as shards."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.data.shards.write import Converted, convert_samples
from ccmb.datasets.problems import findings_text
from ccmb.datasets.registry import open_dataset


def convert_dataset(
    name: str,
    folder: str,
    out: Path,
    split: str,
    images: Path | None,
    samples_per_shard: int,
    size: int | None,
    keep_metadata: bool = False,
) -> tuple[Converted, str]:
    """Write the samples of one split, and return what was left out as text.

    Raises:
        CcmbError: see `open_dataset` and `convert_samples`; or no text of the split has an image.
    """
    dataset = open_dataset(name, folder, split, images)
    if not dataset.samples:
        raise CcmbError(f"{folder}: no text of split '{dataset.split}' names an image; choose another split")
    fields, image_source = dataset.fields, dataset.images
    done = convert_samples(
        dataset.samples,
        image_source,
        out=out,
        fields=fields,
        samples_per_shard=samples_per_shard,
        size=size,
        keep_metadata=keep_metadata,
    )
    return done, findings_text(dataset.skipped.findings.values())
