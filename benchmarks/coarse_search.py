"""The time of a scan by short vectors and then whole ones, against a scan of whole ones, and what it loses.

    python benchmarks/coarse_search.py --rows 500000 --dim 768 --coarse 96 --json coarse_search.json
    python benchmarks/coarse_search.py --features FEATURES --coarse 96

Random vectors tell the time, and nothing of the loss. `--features` is a folder of stored features of a real model
(images.npy, texts.npy): its recall@K is the share of the best K of a whole scan that the short one finds, over all
texts. A gallery of less than four shortlists is scanned whole.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ccmb.search.memory_store import MemoryStore
from paired import Contestant, claim, median_ratio, take_turns, write_report

QUERIES = 64


class Rows(MemoryStore):
    """A memory store of vectors alone, without a file."""

    def __init__(self, embed_ND: Tensor, coarse_dim: int | None) -> None:
        self.dim, self.coarse_dim = embed_ND.shape[1], coarse_dim
        self._clear()
        self._reserve(len(embed_ND))
        self._keys = [str(row) for row in range(len(embed_ND))]
        self._embed_CD[:] = embed_ND
        if self._coarse is not None:
            self._coarse.put(slice(0, len(embed_ND)), embed_ND)


def loaded(path: Path) -> Tensor:
    return F.normalize(torch.from_numpy(np.load(path)).float(), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--coarse", type=int, default=96)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.features is None:
        generator = torch.Generator().manual_seed(0)
        images = F.normalize(torch.randn(options.rows, options.dim, generator=generator), dim=1)
        texts = F.normalize(torch.randn(QUERIES, options.dim, generator=generator), dim=1)
    else:
        images, texts = loaded(options.features / "images.npy"), loaded(options.features / "texts.npy")
    whole, short = Rows(images, None), Rows(images, options.coarse)
    contestants = [
        Contestant(name, lambda number, store=store: store.search_many(texts[number % len(texts)][None], options.k))  # type: ignore[misc]
        for name, store in (("whole", whole), ("short, then whole", short))
    ]
    take_turns(contestants, options.rounds, torch.device("cpu"))
    ratio, low, high = median_ratio(contestants[0], contestants[1])
    claims = [claim(f"{one.name}, a query", 1000 * one.median, None, "ms") for one in contestants]
    claims.append(claim("whole / short, then whole", ratio, None, "x"))
    result: dict[str, Any] = {"rows": len(images), "dim": images.shape[1], "coarse": options.coarse, "k": options.k}
    result["ratio"] = [round(value, 2) for value in (ratio, low, high)]
    if options.features is not None:
        best = [{near.key for near in hits} for hits in whole.search_many(texts, options.k)]
        hits = [{near.key for near in hits} for hits in short.search_many(texts, options.k)]
        recall = statistics.mean(len(one & other) / options.k for one, other in zip(best, hits, strict=True))
        claims.append(claim(f"recall@{options.k} of the whole scan", 100 * recall, None, "%"))
    write_report(options.json, claims, result, torch.device("cpu"))


if __name__ == "__main__":
    main()
