"""Mined negatives: before the training, or every so many steps, the towers' own index says which samples are alike.

Two samples are alike by their images and texts together: by the sum of an image's embedding and the mean embedding of
its texts. Among what the batch happens to hold there is rarely anything that is hard to tell apart.

Shapes: N samples, I images, D embedding width, K neighbours.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccmb.core.device import inference, precision
from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.core.progress import progress
from ccmb.data.batch_plan import MinedPlan
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.two_towers import l2_normalize
from ccmb.tasks.pretraining.batches import PairReader
from ccmb.training.distributed import all_reduce_max, barrier, world

FILE = "neighbors.npy"  # in the run folder, so that a run that goes on has the same batches; see `file_of_round`
BATCH = 128
ROWS = 1024  # whose cosines with all are held at a time
Batches = Callable[[int, int], Iterator[Any]]


def with_neighbors(
    batches: Batches, reader: PairReader, pretraining: PreTraining, processor: R2D2Processor, out: Path
) -> Batches:
    """The same batches; where they are mined, the samples' neighbours are found before the first, and before the first
    of each further round if the recipe has any.

    Only then the network has the weights that it trains with, and is on its device.
    """
    if not isinstance(reader.plan, MinedPlan) or reader.data.mining is None:
        return batches
    every = reader.data.mining.every

    def mined(plan: MinedPlan, start: int, stop: int) -> Iterator[Any]:
        for first, last in rounds(start, stop, every):
            path = out / file_of_round(first, every)
            if all_reduce_max(int(not path.exists())):  # all processes see the same, or find them anew together
                with torch.random.fork_rng():  # a run that goes on reads them, and draws the same afterwards
                    neighbors_NK = find_neighbors(reader, pretraining, processor)
                if world().is_main:
                    content = io.BytesIO()
                    np.save(content, neighbors_NK)
                    with atomic_write(path, "wb") as file:
                        file.write(content.getvalue())
                barrier()
            plan.neighbors_NK = _read(path, plan.count)
            yield from batches(first, last)

    return partial(mined, reader.plan)


def rounds(start: int, stop: int, every: int | None) -> Iterator[tuple[int, int]]:
    """The steps from one to the one before another, in runs within which the neighbours stay."""
    while start < stop:
        end = stop if every is None else min(stop, (start // every + 1) * every)
        yield start, end
        start = end


def file_of_round(step: int, every: int | None) -> str:
    """The name of the file of the neighbours that a step's batch is drawn from."""
    first = 0 if every is None else step // every * every
    return FILE if not first else FILE.replace(".", f"-{first}.")


def find_neighbors(reader: PairReader, pretraining: PreTraining, processor: R2D2Processor) -> np.ndarray:
    """(N, K) indices of the samples that are most alike each; none is of the same image."""
    mining = reader.data.mining
    assert mining is not None
    image_ids, first_of = _images([sample.image for sample in reader.samples])
    with inference(pretraining.model), precision(_device(pretraining), reader.training.precision):
        feature_ID = _features(reader, pretraining, processor, len(first_of), mining.texts)
    count = min(mining.neighbors, len(first_of) - 1)
    if not count:
        raise CcmbError("data.mining: all samples show one image, which has no neighbours")
    nearest_IK = _nearest(feature_ID, count, mining.max_similarity).numpy()
    return first_of[nearest_IK][image_ids]


def _features(
    reader: PairReader, pretraining: PreTraining, processor: R2D2Processor, images: int, times: int
) -> Tensor:
    """(I, D) a unit vector for each image; 0 for one that cannot be read."""
    width = pretraining.model.config.embed_dim
    sums = torch.zeros(2, images, width)
    with progress("looking for neighbours", len(reader.samples) * times, "samples") as advance:
        for batch, _ in reader.each(processor, times, BATCH):
            if batch is not None:
                embeds = pretraining.embeds(batch.to(_device(pretraining)))
                for summed, embed_BD in zip(sums, embeds, strict=True):
                    summed.index_add_(0, batch.image_ids, embed_BD.cpu().to(summed.dtype))
            advance(BATCH if batch is None else len(batch.image_ids))
    return l2_normalize(l2_normalize(sums[0]) + l2_normalize(sums[1]))


def _nearest(feature_ID: Tensor, count: int, max_similarity: float) -> Tensor:
    """(I, K) indices of the nearest others by cosine, none above the maximum; of an image with too few, itself."""
    parts = []
    # Unit vectors may have a cosine just above 1.
    limit = torch.inf if max_similarity == 1 else max_similarity
    for start in range(0, len(feature_ID), ROWS):
        cosine_RI = feature_ID[start : start + ROWS] @ feature_ID.T
        own = torch.arange(len(cosine_RI))
        cosine_RI[own, own + start] = -torch.inf
        nearest_RK = cosine_RI.masked_fill_(cosine_RI > limit, -torch.inf).topk(count, dim=1)
        itself_R1 = (own + start)[:, None]
        parts.append(torch.where(nearest_RK.values == -torch.inf, itself_R1, nearest_RK.indices))
    return torch.cat(parts)


def _images(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the number of each sample's image, in the order in which images first come; (I,) each one's first sample."""
    numbers, firsts = dict[str, int](), list[int]()
    for index, name in enumerate(names):
        if name not in numbers:
            numbers[name] = len(firsts)
            firsts.append(index)
    return np.array([numbers[name] for name in names]), np.array(firsts)


def _device(pretraining: PreTraining) -> torch.device:
    return pretraining.model.temperature.device


def _read(path: Path, count: int) -> np.ndarray:
    """The neighbours in a run folder.

    Raises:
        CcmbError: they are damaged or of other data.
    """
    try:
        neighbors_NK: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CcmbError(f"{path}: cannot be read ({error}); remove it, and it is made again") from None
    if neighbors_NK.ndim != 2 or len(neighbors_NK) != count or not np.issubdtype(neighbors_NK.dtype, np.integer):
        raise CcmbError(f"{path}: these are not the neighbours of {count} samples; remove it, and it is made again")
    return neighbors_NK
