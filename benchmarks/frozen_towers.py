"""How fast training with frozen towers is when their states are stored, against computing them in every step.

    python benchmarks/frozen_towers.py --data flickr8k-cn --vision efficientnet-lite0 --text multilingual-e5-small

A step is what the trainer does: the batch is read, decoded or looked up, then forward, backward, clipping and AdamW.
Both runs have one network, one order of batches and one set of random numbers, and take turns; their losses are
compared. The pass that stores the states is timed by itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.device import choose_device, precision
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.pretraining.batches import PairReader
from ccmb.tasks.pretraining.frozen_states import FrozenStates
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import build_network, make_pretraining
from paired import Contestant, claim, median_ratio, take_turns, write_report

FASTER, CLOSE = 5.0, 0.02  # what is claimed: times the samples a second with GCPR; relative difference of losses
OBJECTIVES = {
    "gcpr": ["objectives.fgr=off", "objectives.mlm=off"],
    "gcpr and fgr": ["objectives.fgr.start_at=0", "objectives.fgr.batch_share=1", "objectives.mlm=off"],
}


class Run:
    """A training of the recipe, step by step."""

    def __init__(self, recipe: PretrainRecipe, steps: int, count: int) -> None:
        self.recipe, self.device = recipe, choose_device(recipe.training.device)
        samples, images = open_training(recipe.data)
        samples = samples[:count]
        states = FrozenStates(samples, images, recipe)
        load = PairReader(samples, images, recipe.data, recipe.training, states).load
        model, processor = build_network(recipe, samples)
        self.training = make_pretraining(model, processor, recipe).train().to(self.device)
        self.images, self.texts = len(samples), len({text for sample in samples for text in sample.texts})
        started = time.perf_counter()
        states.store(self.training, processor, steps)
        self.seconds = time.perf_counter() - started
        self.is_stored = states.image_store is not None and states.text_store is not None
        self.batches = load(processor, 0, steps)
        parameters = [p for p in self.training.parameters() if p.requires_grad]
        self.parameters, self.optimizer = parameters, torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        self.losses: list[float] = []

    def step(self, number: int) -> None:
        batch, _ = next(self.batches)
        assert batch is not None, "all images can be read"
        batch = batch.to(self.device)
        torch.manual_seed(number)
        with precision(self.device, self.recipe.training.precision):
            generator = torch.Generator(self.device).manual_seed(number)
            losses: dict[str, Tensor] = self.training.losses(batch, 0.5, generator)[0]
            loss = self.training.total(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.training.after_step()
        self.losses.append(float(loss.detach()))


def recipe_of(options: argparse.Namespace, objectives: Sequence[str], stored: bool) -> PretrainRecipe:
    overrides = [
        f"data.folder={options.data.resolve()}", f"data.images={options.images}", f"data.num_workers={options.workers}",
        f"data.pairs={options.pairs}", f"data.fields=[{','.join(options.fields)}]",  "data.augmentation={}",
        f"model.vision={options.vision}", f"model.text={options.text}",
        f"model.text_pooling={options.pooling}", f"model.image_size={options.size}", "model.freeze.image=all",
        "model.freeze.text=all", "objectives.tgd=off", "objectives.fgd=off",
        f"training.batch_size={options.batch}", f"training.device={options.device}",
        f"training.precision={options.precision}", f"training.frozen_states={str(stored).lower()}", *objectives,
    ]  # fmt: skip
    return load_recipe(PretrainRecipe, find_recipe("flickr8k-cn"), overrides)


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both runs with these objectives."""
    steps = options.repeats + 1
    computed, stored = (Run(recipe_of(options, OBJECTIVES[name], on), steps, options.samples) for on in (False, True))
    assert (stored.is_stored, computed.is_stored) == (True, False)
    slow, fast = Contestant("computed", computed.step), Contestant("stored", stored.step)
    contestants = [slow, fast]
    take_turns(contestants, options.repeats, stored.device)
    middle, low, high = median_ratio(slow, fast)
    difference = max(abs(a - b) / abs(a) for a, b in zip(computed.losses, stored.losses, strict=True))
    rates = {one.name: options.batch / one.median for one in contestants}
    print(
        f"{name}: {rates['computed']:.1f} computed, {rates['stored']:.1f} stored, {middle:.1f} ({low:.1f}-{high:.1f})"
    )
    return {
        "objectives": name, "samples_per_second": rates, "seconds": {one.name: one.seconds for one in contestants},
        "ratio": middle, "ratio_interval": [low, high], "losses": [computed.losses, stored.losses],
        "loss_difference": difference, "pass_seconds": stored.seconds, "images": stored.images, "texts": stored.texts,
    }  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Flickr8k-CN's form")
    parser.add_argument("--images", default="images.tar", help="its tar or folder of images")
    parser.add_argument("--pairs", default="captions.jsonl", help="its JSON lines")
    parser.add_argument("--fields", nargs="+", default=["captions", "mt_baidu"], help="text fields")
    parser.add_argument("--vision", required=True, help="folder or hub id of an image tower")
    parser.add_argument("--text", required=True, help="folder or hub id of a text tower")
    parser.add_argument("--pooling", default="mean", help="of the text tower")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--samples", type=int, default=512, help="images that are trained on")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9, help="rounds that are timed")
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, CCMB_CACHE=cache):
        lines = [compare(name, options) for name in options.objectives]
    claims = []
    for line in lines:
        name = line["objectives"]
        target = FASTER if name == "gcpr" else None  # what cross encoders cost is the same in both
        claims.append(claim(f"{name}: samples/s stored over computed", line["ratio"], target, "x"))
        claims.append(claim(f"{name}: losses, greatest difference", line["loss_difference"], CLOSE, ""))
    results = {"size": options.size, "samples": options.samples, "batch": options.batch, "lines": lines}
    write_report(options.json, claims, results, choose_device(options.device))
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
