"""Small folders of shards whose samples say in their texts which ones they are."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ccmb.data.images.source import ImageSource
from ccmb.data.images.transforms import Augmentation
from ccmb.data.shards.locate import find_shards
from ccmb.data.shards.order import StreamOrder
from ccmb.data.shards.stream import ShardStream, stream_batches
from ccmb.data.shards.write import convert_pairs

SIZE = 8


def png(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (colour % 256, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_pairs(folder: Path, count: int, **more: Any) -> Path:
    """`pairs.jsonl` with the texts 样本0, 样本1 .. beside a folder of images."""
    (folder / "images").mkdir(parents=True)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            (folder / "images" / f"{number}.png").write_bytes(png(number))
            file.write(json.dumps({"image": f"{number}.png", "texts": [f"样本{number}"], **more}) + "\n")
    return folder / "pairs.jsonl"


def write_shards(folder: Path, count: int, samples_per_shard: int) -> Path:
    """Shards of `count` samples, with a manifest."""
    pairs = write_pairs(folder / "pairs", count)
    convert_pairs(
        pairs, ImageSource.open(pairs.parent / "images"), folder / "shards", None, ["texts"], samples_per_shard
    )
    return folder / "shards"


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def open_folder(
    folder: Path | str,
    batch: int,
    streams: int,
    buffer: int = 5,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    sizes: Sequence[int] | None = None,
) -> ShardStream:
    """A stream of a folder's shards, or of the first ones with the first samples of each, as `sizes` says."""
    shards = find_shards([str(folder)])
    if sizes is not None:
        shards = [replace(shard, samples=size) for shard, size in zip(shards, sizes, strict=False)]
    order = StreamOrder(tuple(shard.samples or 0 for shard in shards), batch, streams, buffer, seed)
    return ShardStream(shards, order, ["texts"], None, Augmentation(flip=True, min_crop_scale=0.5), seed, rank, world)


def texts_of(stream: ShardStream, start: int, stop: int, workers: int = 0) -> list[list[str | None]]:
    """The texts of each batch, None where a sample is lost."""
    batches = stream_batches(stream, SIZE, start, stop, list, joined, workers)
    return [[None if isinstance(item, str) else item[1] for item in batch] for batch in batches]


def joined(parts: Sequence[list[Any]]) -> list[Any]:
    return [item for part in parts for item in part]
