"""Shards as the data of a run: counted once and put on record, so that a continued run has the same ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write, read_json_lines
from ccmb.core.progress import progress
from ccmb.data.sample import Sample
from ccmb.data.shards.locate import MANIFEST, Shard, find_shards, read_manifest
from ccmb.data.shards.order import StreamOrder, check_streams
from ccmb.data.shards.read import count_samples
from ccmb.data.shards.stream import ShardStream
from ccmb.data.shards.write import write_manifest
from ccmb.training.recipe import DataRecipe, TrainingRecipe

# From whose texts the tokenizer of a new network is made, and where a run keeps them.
TOKENIZER_SAMPLES = 20_000
TEXTS = "tokenizer-texts.jsonl"


def open_stream(
    data: DataRecipe, training: TrainingRecipe, out: Path, rank: int = 0, world: int = 1
) -> tuple[ShardStream, list[str]]:
    """The stream of a recipe's shards for one of several ranks, and a line for each shard found to be damaged.

    Raises:
        UsageError: shards, streams, ranks and workers do not go together; the message has the arithmetic.
        CcmbError: there are no such shards, or the run in `out` began with others.
    """
    shards, damaged = _counted(find_shards(data.shards), read_manifest(str(out)), out)
    empty = [shard for shard in shards if not shard.samples]
    if len(empty) == len(shards):
        raise CcmbError(f"{empty[0].url}: no samples in it, nor in the other shards")
    sizes = tuple(shard.samples or 0 for shard in shards)
    order = StreamOrder(
        sizes=sizes,
        batch=training.batch_size,
        streams=data.streams,
        buffer=data.shuffle_buffer,
        seed=training.seed,
        per_epoch=data.samples_per_epoch,
    )
    check_streams(order, world, data.num_workers)
    weights, seed = data.field_weights, training.seed
    return ShardStream(
        shards=shards,
        order=order,
        fields=data.fields,
        weights=weights,
        augmentation=data.augmentation,
        seed=seed,
        rank=rank,
        world=world,
    ), damaged


class FirstSamples:
    """The samples from whose texts a new network's tokenizer is made; their images are of no use.

    A run that goes on has them on record: what a failing server gives today must not change what a token means.
    """

    def __init__(self, stream: ShardStream, out: Path) -> None:
        self.stream, self.path = stream, out / TEXTS
        self._texts: list[tuple[str, ...]] = []

    def __iter__(self) -> Iterator[Sample]:
        if self.path.exists():
            self._texts = [tuple(line["texts"]) for _, line in read_json_lines(self.path)]
        else:
            self._texts = [sample.texts for sample in self.stream.first_samples(TOKENIZER_SAMPLES)]
        return (Sample("", texts) for texts in self._texts)

    def record(self) -> None:
        """Keep the texts, if they have been of use."""
        if self._texts and not self.path.exists():
            with atomic_write(self.path) as file:
                file.writelines(json.dumps({"texts": texts}, ensure_ascii=False) + "\n" for texts in self._texts)


def record_shards(stream: ShardStream, out: Path) -> None:
    """Write into the run folder which shards it trains on."""
    if not (out / MANIFEST).exists():
        write_manifest(out / MANIFEST, stream.shards)


def _counted(shards: Sequence[Shard], record: Sequence[Shard] | None, out: Path) -> tuple[list[Shard], list[str]]:
    """The shards with their samples, which a run that has begun has on record: another count would be another order."""
    if record is not None:
        then, now = [shard.name for shard in record], [shard.name for shard in shards]
        same = then == now and all(a.samples in (None, b.samples) for a, b in zip(shards, record, strict=True))
        if not same:
            changed = next((a for a, b in zip(then, now, strict=False) if a != b), "a shard")
            raise CcmbError(
                f"{out}: the run began with {len(then)} shards and finds {len(now)} now, and {changed} is not the "
                "same; restore the shards, or choose another --out"
            )
        return [replace(a, samples=b.samples) for a, b in zip(shards, record, strict=True)], []
    counted, damaged = [], []
    with progress("count", len(shards), "shards") as advance:
        for shard in shards:
            if shard.samples is None:
                count, damage = count_samples(shard.url)
                shard = replace(shard, samples=count)
                damaged += [damage] if damage else []
            counted.append(shard)
            advance(1)
    return counted, damaged
