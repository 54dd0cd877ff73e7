"""Comparing an export with its network in torch: speed and recall.

Shapes: B items, N pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ccmb.core.device import inference
from ccmb.core.progress import progress
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import read_pairs, readable_samples
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.interface import TwoStageModel
from ccmb.inference.scoring import rank_pairs
from ccmb.inference.stages import R2D2Encoder
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.common.resampling import gain
from ccmb.tasks.retrieval.metrics import bootstrap_recalls, hits_by_image, report_of_ranks, resampling_unit

TOKENS = 16  # tokens of a text: the average of Chinese captions


@dataclass(frozen=True, slots=True)
class Workload:
    """A computation of a network on `count` items of a `unit`."""

    name: str
    unit: str
    count: int
    run: Callable[[TwoStageModel], Any]


def workloads(network: TwoStageModel, image_count: int = 8, texts: int = 32, depth: int = 32) -> list[Workload]:
    """The computations to time: both towers, and the cross encoders on one text and `depth` images, as in a search.

    Pixels, tokens and states are random, which does not change the amount of work.
    """
    config, generator = network.config, torch.Generator().manual_seed(0)
    pixels = torch.randn(image_count, 3, config.image_size, config.image_size, generator=generator)
    ids = torch.randint(config.text_config.vocab_size, (texts, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    work = [
        Workload("image tower", "images", image_count, lambda model: model.encode_image(pixels)),
        Workload("text tower", "texts", texts, lambda model: model.encode_text(ids, mask)),
    ]
    if not network.can_rank:
        return work
    with inference(network):
        tokens, text = network.encode_image(pixels[:1]).states.shape[1], network.encode_text(ids[:1], mask[:1])
    states = torch.randn(depth, tokens, config.image_width, generator=generator)
    images = TowerOutput(states[:, 0], states)
    pairs = torch.arange(depth), torch.zeros(depth).long()
    if config.decoder_layers:
        return [*work, Workload("decoder", "pairs", depth, lambda model: rank_pairs(model, images, text, *pairs))]
    return [
        *work,
        Workload(
            "text-image encoder",
            "pairs",
            depth,
            lambda model: rank_pairs(model, images, text, *pairs, text_image_only=True),
        ),
        Workload("both cross encoders", "pairs", depth, lambda model: rank_pairs(model, images, text, *pairs)),
    ]


def compare_speed(network: TwoStageModel, exported: TwoStageModel, rounds: int = 3) -> dict[str, Any]:
    """Items per second of both networks, by workload: medians of rounds in which they take turns."""
    report: dict[str, Any] = {}
    work = workloads(network)
    with inference(network), progress("time", len(work), "parts") as advance:
        for workload in work:
            seconds: dict[str, list[float]] = {"torch": [], "export": []}
            for repetition in range(1 + rounds):  # the first one warms up
                for name, model in (("torch", network), ("export", exported)):
                    started = time.perf_counter()
                    workload.run(model)
                    if repetition:
                        seconds[name].append(time.perf_counter() - started)
            medians = {name: statistics.median(runs) for name, runs in seconds.items()}
            report[workload.name] = {"unit": f"{workload.unit}/s"} | {
                name: float(f"{workload.count / median:.3g}") for name, median in medians.items()
            }
            report[workload.name]["times"] = round(medians["torch"] / medians["export"], 2)
            advance(1, workload.name)
    return report


def compare_recall(
    network: TwoStageModel,
    exported: TwoStageModel,
    processor: R2D2Processor,
    pairs: Path,
    images: Path,
    split: str | None,
    fields: Sequence[str],
    depth: int = 64,
    texts_per_image: int | None = None,
) -> dict[str, Any]:
    """Recalls of both networks on one split of custom pairs, and their difference with a 95 % interval over images.

    Raises:
        CcmbError: faulty data, or no readable image. Images that cannot be read are listed in the report.
    """
    image_source = ImageSource.open(images)
    samples, unreadable = readable_samples(read_pairs(pairs, split, fields), image_source)
    texts = [sample.texts[:texts_per_image] for sample in samples]
    report: dict[str, Any] = {"data": str(pairs), "split": split}
    ranks: dict[str, dict[Direction, Ranks]] = {}
    for name, model in (("torch", network), ("export", exported)):
        gallery = encode_gallery(
            R2D2Encoder(model, processor), [sample.image for sample in samples], texts, image_source.load
        )
        ranks[name] = ranks_both_ways(model, gallery, depth)
        report[name] = report_of_ranks(ranks[name], gallery, depth)
    stages = ("pre_ranking", "ranking") if network.can_rank else ("pre_ranking",)
    report["difference"] = {stage: _difference(ranks["torch"], ranks["export"], gallery, stage) for stage in stages}
    return report | {"unreadable": unreadable}


def _difference(
    before: dict[Direction, Ranks], after: dict[Direction, Ranks], gallery: Gallery, stage: str
) -> dict[str, dict[str, float]]:
    """Differences of the mean recall and of R@1 in each direction, in points, with 95 % paired-bootstrap intervals."""
    drawn, recalls = resampling_unit(gallery), []
    for ranks_by_direction in (before, after):
        ranks_of = {direction: getattr(ranks, stage) for direction, ranks in ranks_by_direction.items()}
        hits, queries = hits_by_image(ranks_of, drawn)
        exact = 100 * hits.sum(1) / queries.sum(1)[:, None]
        recalls.append(np.concatenate([exact[None], bootstrap_recalls(hits, queries)]))
    gained = recalls[1] - recalls[0]  # (1 + draws, directions, 3); the first is of all images as they are
    columns = {"mean_recall": gained.mean((1, 2))}
    columns |= {f"{direction} R@1": gained[:, at, 0] for at, direction in enumerate(before)}
    units = int(drawn.max()) + 1
    gains = {name: gain(float(values[0]), values[1:], units) for name, values in columns.items()}
    return {
        name: {
            "points": ranks_by_direction["mean"],
            "low": ranks_by_direction["low"],
            "high": ranks_by_direction["high"],
        }
        for name, ranks_by_direction in gains.items()
    }
