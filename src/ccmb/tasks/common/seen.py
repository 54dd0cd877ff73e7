"""Images that a run's model was trained on, by the chain of runs that led to it, and held-out ones among them.

A model folder carries the record (`ccmb.data.seen_images`). Of a run that was made before there was one, its recipe
says what it read, and its data may still be there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from pydantic import ValidationError

from ccmb.core.choices import PLUS
from ccmb.core.config.retired_keys import renamed_values
from ccmb.core.errors import CcmbError
from ccmb.data.sample import Sample
from ccmb.data.seen_images import FILE, Read, SeenImages, read_seen, seen_in
from ccmb.data.shards.locate import find_shards
from ccmb.fetch.hub import HUB_ID
from ccmb.tasks.common.datasets import open_training
from ccmb.training.recipe import DataRecipe, ModelRecipe

_LOG = logging.getLogger(__name__)

_LONGEST_CHAIN = 20  # of runs without records


def seen_by(source: str | Path, depth: int = _LONGEST_CHAIN) -> SeenImages | None:
    """The images that a run, model folder or hub id was trained on; None where there is no record.

    Those of two models, `A + B`, are those of either.

    Raises:
        CcmbError: the record is damaged.
    """
    if PLUS in str(source) and not Path(source).exists():
        records = [seen_by(part.strip(), depth) for part in str(source).split(PLUS)]
        known = [record for record in records if record is not None]
        return reduce(or_, known) if known else None
    folder = _folder(source)
    if folder is None:
        return None
    folders = (folder, folder / "model", folder / "run", folder / "run" / "model")
    for path in folders:
        if (seen := read_seen(path)) is not None:
            return seen
    for path in (*folders, folder.parent):
        if depth and (path / "recipe.yaml").is_file():
            return _of_recipe(path / "recipe.yaml", depth - 1)
    return None


def seen_in_training(data: DataRecipe, samples: Iterable[Sample], start: str | None) -> SeenImages:
    """The images that a run is trained on: its own, and those of the model that it starts from.

    Args:
        samples: those of a folder; of shards, lists beside these say which photographs they hold.
        start: what the run starts from.
    """
    if data.shards:
        seen = _of_shards(data)
    else:
        seen = seen_in(data.name, data.split, (sample.image for sample in samples))
    if start:
        seen |= seen_by(start) or SeenImages((Read(start),))
    return seen


def warn_of_seen(seen: SeenImages, sets: Sequence[Any]) -> None:
    """Log, before a training, which measured images the run or its start model is trained on.

    Args:
        sets: each with its name, its split and its samples.
    """
    for one in sets:
        names = list(dict.fromkeys(sample.image for sample in one.samples))
        among = seen.among(names)
        if among:
            where = f"{one.name}, split {one.split}: {len(among):,} of its {len(names):,} images"
            read = ", ".join(folder.name for folder in seen.read)
            _LOG.warning(
                f"{where} are photographs that are trained on ({read}), such as {among[0]}; results on it are "
                f'marked "saw {len(among)} test images"'
            )


def _folder(source: str | Path) -> Path | None:
    """The local folder of a source; for a hub id the folder of its copy, if there is one."""
    path = Path(source)
    if path.is_dir():
        return path
    if HUB_ID.fullmatch(str(source)):
        with suppress(Exception):  # it was never downloaded, or not through the hub's cache
            return Path(snapshot_download(str(source), allow_patterns=[FILE], local_files_only=True))
    return None


def _of_recipe(path: Path, depth: int) -> SeenImages | None:
    """The images of a run without a record, read from its recipe, as far as its data is still there."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        data = DataRecipe.model_validate(values["data"])
        model, _ = renamed_values(ModelRecipe, values.get("model") or {})
        start = model.get("init_from")
        if data.shards:
            seen = _of_shards(data)
        else:
            seen = seen_in(data.name, data.split, (sample.image for sample in open_training(data)[0]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValidationError, CcmbError):
        return None
    return seen if start is None else seen | (seen_by(start, depth) or SeenImages((Read(start),)))


def _of_shards(data: DataRecipe) -> SeenImages:
    """Images in the lists beside the shards; shards elsewhere or without a list are on record without a number."""
    seen = SeenImages()
    with suppress(CcmbError):
        for folder in dict.fromkeys(Path(shard.url).parent for shard in find_shards(data.shards)):
            if (listed := read_seen(folder)) is not None:
                seen |= listed
    return seen if seen.read else SeenImages((Read(data.name),))
