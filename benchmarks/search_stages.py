"""What stacks of stages cost a query of an index, and an image's bytes in it: median and 95th percentile, taking turns.

    python benchmarks/search_stages.py PHOTOS --model MODEL --texts queries.txt --stack cosine=0 --stack ranked=16 \\
        --stack "three=128:late:TOKENS?dim=256&keep=16 + MODEL" --json search_stages.json

A stack is LABEL=DEPTH:RANKER: how many candidates of the cosine the stage behind it looks at, and what that is, as
`--ranker` takes it; without one the model's own. Each has an index of its own, which keeps all token states.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ccmb.inference.models.open_model import open_model
from ccmb.search.engine import SearchEngine, open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import SearchQuery
from paired import Contestant, claim, median_ratio, take_turns, write_report

STATES = 2**36  # bytes: all


def opened(stack: ExitStack, photos: Path, model: str, ranker: str, index: Path) -> tuple[SearchEngine, float]:
    """An engine whose index keeps what the ranker reads, and the bytes of an image in it."""
    both = open_model(f"{model} + {ranker}" if ranker else model)
    report = build_index([photos], index, both, states_bytes=STATES if both.can_rank else 0)
    engine = stack.enter_context(open_engine(index, model, ranker=ranker or None, states_bytes=2**30))
    return engine, 4 * both.embed_dim + engine.catalogue.states_size() / report.added


def p95(contestant: Contestant) -> float:
    return float(torch.tensor(contestant.seconds).quantile(0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--stack", action="append", required=True)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = options.texts.read_text(encoding="utf-8").splitlines()
    contestants, sizes = [], {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for number, given in enumerate(options.stack):
            label, _, way = given.partition("=")
            depth, _, ranker = way.partition(":")
            engine, sizes[label] = opened(stack, options.photos, options.model, ranker, Path(folder) / str(number))

            def search(turn: int, engine: SearchEngine = engine, depth: int = int(depth)) -> None:
                text = texts[turn % len(texts)]
                engine.search(SearchQuery(text, k=options.k, depth=max(1, depth), rank=depth > 0))

            contestants.append(Contestant(label, search))
        take_turns(contestants, options.rounds, torch.device("cpu"), warm_up=5)
    claims, result = [], dict[str, Any]()
    for one in contestants:
        claims.append(claim(f"{one.name}, median", 1000 * one.median, None, "ms"))
        claims.append(claim(f"{one.name}, p95", 1000 * p95(one), None, "ms"))
        claims.append(claim(f"{one.name}, an image", sizes[one.name] / 1024, None, "KiB"))
    for one in contestants[1:]:
        ratio, low, high = median_ratio(one, contestants[0])
        result[f"{one.name} / {contestants[0].name}"] = [round(value, 2) for value in (ratio, low, high)]
    result["p95"] = {one.name: round(1000 * p95(one), 2) for one in contestants}
    write_report(options.json, claims, result, torch.device("cpu"))


if __name__ == "__main__":
    main()
