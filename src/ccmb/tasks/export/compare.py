"""What an export is worth: its speed beside the network's in torch, and what it costs in recall.

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
from ccmb.inference.interface import Network
from ccmb.inference.scoring import rank_pairs
from ccmb.inference.two_stage import Direction, Ranks, ranks_both_ways
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.resampling import gain
from ccmb.tasks.retrieval.metrics import bootstrap_recalls, drawn_with, hits_by_image, report_of_ranks

TOKENS = 16  # of a text, as Chinese captions have on average


@dataclass(frozen=True, slots=True)
class Work:
    """Something that a network does with `count` items of a `unit`."""

    name: str
    unit: str
    count: int
    run: Callable[[Network], Any]


def workloads(network: Network, pictures: int = 8, texts: int = 32, depth: int = 32) -> list[Work]:
    """What is timed: both towers, and the cross encoders on a text and `depth` pictures, as a search ranks them.

    Pixels, words and states are random, which changes no work.
    """
    config, generator = network.config, torch.Generator().manual_seed(0)
    pixels = torch.randn(pictures, 3, config.image_size, config.image_size, generator=generator)
    ids = torch.randint(config.text_config.vocab_size, (texts, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    work = [
        Work("image tower", "images", pictures, lambda of: of.encode_image(pixels)),
        Work("text tower", "texts", texts, lambda of: of.encode_text(ids, mask)),
    ]
    if not network.can_rank:
        return work
    with inference(network):
        tokens = network.encode_image(pixels[:1]).states.shape[1]
    states = torch.randn(depth, tokens, config.image_width, generator=generator)
    images = TowerOutput(states[:, 0], states)
    states = torch.randn(1, TOKENS, config.text_config.hidden_size, generator=generator)
    text, pairs = TowerOutput(states[:, 0], states, mask[:1]), (torch.arange(depth), torch.zeros(depth).long())
    return [
        *work,
        Work("text-image encoder", "pairs", depth, lambda of: rank_pairs(of, images, text, *pairs, preview=True)),
        Work("both cross encoders", "pairs", depth, lambda of: rank_pairs(of, images, text, *pairs)),
    ]


def compare_speed(network: Network, exported: Network, rounds: int = 3) -> dict[str, Any]:
    """Items per second of both, by work: medians of rounds in which they take turns."""
    found: dict[str, Any] = {}
    work = workloads(network)
    with inference(network), progress("time", len(work), "parts") as advance:
        for one in work:
            seconds: dict[str, list[float]] = {"torch": [], "export": []}
            for number in range(1 + rounds):  # the first one warms up
                for name, of in (("torch", network), ("export", exported)):
                    started = time.perf_counter()
                    one.run(of)
                    if number:
                        seconds[name].append(time.perf_counter() - started)
            medians = {name: statistics.median(of) for name, of in seconds.items()}
            found[one.name] = {"unit": f"{one.unit}/s"} | {
                name: float(f"{one.count / of:.3g}") for name, of in medians.items()
            }
            found[one.name]["times"] = round(medians["torch"] / medians["export"], 2)
            advance(1, one.name)
    return found


def compare_recall(
    network: Network,
    exported: Network,
    processor: R2D2Processor,
    pairs: Path,
    images: Path,
    split: str | None,
    fields: Sequence[str],
    depth: int = 64,
    texts_per_image: int | None = None,
) -> dict[str, Any]:
    """Recalls of both on one split of own pairs, and their difference with a 95 % interval over pictures.

    Raises:
        CcmbError: faulty data, or no readable picture. Pictures that cannot be read are listed in the report.
    """
    pictures = ImageSource.open(images)
    samples, unreadable = readable_samples(read_pairs(pairs, split, fields), pictures)
    texts = [sample.texts[:texts_per_image] for sample in samples]
    report: dict[str, Any] = {"data": str(pairs), "split": split}
    ranks: dict[str, dict[Direction, Ranks]] = {}
    for name, of in (("torch", network), ("export", exported)):
        gallery = encode_gallery(of, processor, [sample.image for sample in samples], texts, pictures.load)
        ranks[name] = ranks_both_ways(of, gallery, depth)
        report[name] = report_of_ranks(ranks[name], gallery, depth)
    stages = ("pre_ranking", "ranking") if network.can_rank else ("pre_ranking",)
    report["difference"] = {stage: _difference(ranks["torch"], ranks["export"], gallery, stage) for stage in stages}
    return report | {"unreadable": unreadable}


def _difference(
    before: dict[Direction, Ranks], after: dict[Direction, Ranks], gallery: Gallery, stage: str
) -> dict[str, dict[str, float]]:
    """In points, of the mean recall and of R@1 each way, with 95 % intervals of the paired bootstrap."""
    drawn, recalls = drawn_with(gallery), []
    for of in (before, after):
        ranks_of = {direction: getattr(ranks, stage) for direction, ranks in of.items()}
        hits, queries = hits_by_image(ranks_of, drawn)
        exact = 100 * hits.sum(1) / queries.sum(1)[:, None]
        recalls.append(np.concatenate([exact[None], bootstrap_recalls(hits, queries)]))
    gained = recalls[1] - recalls[0]  # (1 + draws, directions, 3); the first is of all pictures as they are
    columns = {"mean_recall": gained.mean((1, 2))}
    columns |= {f"{direction} R@1": gained[:, at, 0] for at, direction in enumerate(before)}
    units = int(drawn.max()) + 1
    found = {name: gain(float(values[0]), values[1:], units) for name, values in columns.items()}
    return {name: {"points": of["mean"], "low": of["low"], "high": of["high"]} for name, of in found.items()}
