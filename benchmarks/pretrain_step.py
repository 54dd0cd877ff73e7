"""How fast a pre-training step is: ours against the plain one of albef_step.py, and what each item contributes.

    python benchmarks/pretrain_step.py --shape tiny --ablation --json tiny.json

A step is forward, backward, clipping, AdamW and the teacher's average, on batches whose captions have real lengths (see
step_shapes.py). Contestants share one set of weights and take turns; before they are timed, both are given the same
masks and negatives and must come to the same losses.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from albef_step import AlbefStep, Draws
from ccmb.core.device import choose_device, precision
from ccmb.objectives import pretraining as pretraining_module
from ccmb.objectives.batch import Batch
from ccmb.r2d2.compile import compile_blocks
from paired import Contestant, claim, median_ratio, take_turns, write_report
from step_ablation import ITEMS, SwitchedStep, plain_attention
from step_shapes import PEAK_FLOPS, draw_lengths, flops_per_sample, make_batch, new_training, read_lengths

BATCHES = 4  # that are taken in turn
FASTER, CLOSE, BUSY = 2.5, 1e-4, 35.0  # what is claimed: times the plain step, difference of losses, per cent of peak
DEFAULT_BATCH = {"test": 4, "tiny": 16, "base": 8, "large": 4}
EVERYTHING = frozenset(ITEMS) - {"bf16", "compile"}


class Bench:
    """Weights, optimisers and batches that all contestants share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = choose_device(options.device)
        self.training = new_training(options.shape, options.queue, self.device, options.freeze_image_tower)
        config = self.training.model.config
        maximum = config.max_text_tokens
        self.count = options.batch or DEFAULT_BATCH[options.shape]
        total = self.count * BATCHES
        self.lengths = (
            read_lengths(options.lengths, total, maximum, 0) if options.lengths else draw_lengths(total, maximum, 0)
        )
        parts = [self.lengths[at : at + self.count] for at in range(0, total, self.count)]
        self.padded = [make_batch(config, part, maximum, seed).to(self.device) for seed, part in enumerate(parts)]
        self.trimmed = [make_batch(config, part, max(part), seed).to(self.device) for seed, part in enumerate(parts)]
        parameters = [p for p in self.training.model.parameters() if p.requires_grad]
        self.parameters = parameters
        self.plain_adamw = torch.optim.AdamW(parameters, lr=1e-6)
        self.fused_adamw = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

    def contestant(self, name: str, items: frozenset[str]) -> Contestant:
        """The plain step with some items; with all but bf16 and compile it is ours."""
        is_ours = items >= EVERYTHING
        step: Any
        if is_ours:
            step = self.training
        else:
            step = SwitchedStep(self.training, items) if items else AlbefStep(self.training)
        optimizer = self.fused_adamw if "optimiser" in items else self.plain_adamw
        batches = self.trimmed if "trim" in items else self.padded
        losses: Callable[[Batch], dict[str, Tensor]] = step.losses
        if is_ours:
            losses = lambda batch: self.training.losses(batch, 0.5)[0]  # noqa: E731

        def run(number: int) -> None:
            self.pack("packed" in items)
            torch.manual_seed(number)
            with plain_attention("attention" not in items), precision(self.device, _type(items)):
                step_losses = losses(batches[number % BATCHES])
                step.total(step_losses).backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step.after_step()

        return Contestant(name, run)

    def pack(self, on: bool) -> None:
        self.training.model.pack_texts = on
        if self.training.teacher is not None:
            self.training.teacher.pack_texts = on

    def difference(self) -> float:
        """The greatest difference between a loss of ours and the plain one's, in fp32 on the first batch."""
        assert self.training.queue is not None
        queue = copy.deepcopy(self.training.queue.state_dict())
        with torch.no_grad(), precision(self.device, "fp32"):
            self.pack(True)
            with recorded_draws() as draws:
                own_losses, _ = self.training.losses(self.trimmed[0], 0.5, torch.Generator(self.device).manual_seed(0))
            self.training.queue.load_state_dict(queue)
            self.pack(False)
            padded = widen(draws(), self.padded[0])
            plain = AlbefStep(self.training).losses(self.padded[0], padded)
            self.training.queue.load_state_dict(queue)
        assert own_losses.keys() == plain.keys()
        differences = [(own_losses[name] - plain[name]).abs() for name in own_losses]
        return float(torch.stack(differences).max())  # not a number if one is


def _type(items: frozenset[str]) -> str:
    return "bf16" if "bf16" in items else "fp32"


@contextmanager
def recorded_draws() -> Any:
    """Within, the masks and negatives that a PreTraining draws are kept; gives a function that returns them."""
    kept: dict[str, Any] = {}

    def keeping(name: str) -> Any:
        plain = getattr(pretraining_module, name)

        def kept_too(*arguments: Any, **options: Any) -> Any:
            kept[name] = plain(*arguments, **options)
            return kept[name]

        return patch.object(pretraining_module, name, kept_too)

    def draws() -> Draws:
        pairs = kept["draw_pairs"]
        rows = len(pairs.labels) // 3
        return Draws(kept["mask_tokens"], pairs.image_index[rows : 2 * rows], pairs.text_index[2 * rows :])

    with keeping("mask_tokens"), keeping("draw_pairs"):
        yield draws


def widen(draws: Draws, batch: Batch) -> Draws:
    """The same draws for the same texts padded further."""
    tokens = draws.masked.input_ids.shape[1]
    ids, positions = batch.input_ids.clone(), torch.zeros_like(batch.maskable)
    ids[:, :tokens], positions[:, :tokens] = draws.masked.input_ids, draws.masked.positions
    index = positions.flatten().nonzero().squeeze(1)
    masked = type(draws.masked)(ids, positions, index, batch.input_ids[positions])
    return Draws(masked, draws.wrong_image, draws.wrong_text)


def operations(contestant: Contestant) -> float:
    """Of one step's matrix products, as torch counts them: what a step cannot be faster by at the same precision and
    the same speed of products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        contestant.run(0)
    return float(counter.get_total_flops())


def result(bench: Bench, contestant: Contestant, plain: Contestant, flops: float) -> dict[str, Any]:
    """A line of the table."""
    middle, low, high = median_ratio(plain, contestant)
    rate = bench.count / contestant.median
    measured: dict[str, Any] = {
        "name": contestant.name, "samples_per_second": rate, "seconds": contestant.seconds,
        "ratio": middle, "ratio_interval": [low, high], "peak_bytes": contestant.peak, "flops_per_second": rate * flops,
    }  # fmt: skip
    if bench.device.type == "cuda":
        name = torch.cuda.get_device_name(bench.device)
        if peaks := [value for part, value in PEAK_FLOPS.items() if part in name]:
            measured["mfu_percent"] = 100 * rate * flops / peaks[0]
    mfu = f"{measured['mfu_percent']:.1f} %" if "mfu_percent" in measured else "-"
    print(
        f"| {contestant.name} | {rate:.2f} | {middle:.2f} ({low:.2f}-{high:.2f}) | {contestant.peak / 2**30:.2f} | "
        f"{rate * flops / 1e12:.3f} | {mfu} |",
        flush=True,
    )
    return measured


def what_of(options: argparse.Namespace) -> str:
    return options.shape + (", image tower frozen" if options.freeze_image_tower else "")


def headline(title: str) -> None:
    print(f"\n{title}\n\n| step | samples/s | times the plain step (95 %) | peak GiB | TFLOP/s | MFU |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)


def compare(bench: Bench, options: argparse.Namespace, flops: float) -> list[dict[str, Any]]:
    """Ours and the plain step in fp32, and both in bf16 if that is the precision; or ours alone."""
    if options.ours_only:
        items = EVERYTHING | ({"bf16"} if options.precision == "bf16" else set())
        if options.compile:
            compile_blocks(bench.training)
        contestants = [bench.contestant(f"ours, {options.precision}", items)]
    else:
        contestants = [bench.contestant("plain, fp32", frozenset()), bench.contestant("ours, fp32", EVERYTHING)]
        if options.precision == "bf16":
            contestants += [
                bench.contestant("plain, bf16", frozenset({"bf16"})),
                bench.contestant("ours, bf16", EVERYTHING | {"bf16"}),
            ]
    take_turns(contestants, options.repeats, bench.device, warm_up=BATCHES if options.compile else 1)
    headline(f"{what_of(options)}, batch {bench.count}, {bench.device}")
    lines = [result(bench, contestant, contestants[0], flops) for contestant in contestants]
    for line, contestant in zip(lines[:2], contestants, strict=False):  # at either precision they are the same
        line["operations"] = operations(contestant)
    return lines


def ablation(bench: Bench, options: argparse.Namespace, flops: float) -> list[dict[str, Any]]:
    """One item after the other, each line with all before it, paired with the plain step."""
    skipped = {name for name, on in (("bf16", options.precision == "bf16"), ("compile", options.compile)) if not on}
    headline("one item after the other")
    lines: list[dict[str, Any]] = []
    switched: frozenset[str] = frozenset()
    for item in [name for name in ITEMS if name not in skipped]:
        switched |= {item}
        plain = bench.contestant("plain", frozenset())
        if item == "compile":
            compile_blocks(bench.training)  # from here on the plain step's layers are compiled too
        one = bench.contestant(f"+ {item}: {ITEMS[item]}", switched)
        take_turns([plain, one], options.repeats, bench.device, warm_up=BATCHES if item == "compile" else 1)
        lines.append(result(bench, one, plain, flops))
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(DEFAULT_BATCH), default="tiny", help="a preset's")
    parser.add_argument("--batch", type=int, help=f"pairs; by default {DEFAULT_BATCH}")
    parser.add_argument("--repeats", type=int, default=9, help="rounds that are timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="fp32 leaves bf16 out")
    parser.add_argument("--queue", type=int, default=36864, help="features in the teacher's queue")
    parser.add_argument("--lengths", type=Path, help="JSON lines with captions whose lengths are taken")
    parser.add_argument("--ablation", action="store_true", help="switch the items on one after the other")
    parser.add_argument("--freeze-image-tower", action="store_true", help="the tower is its own teacher, computed once")
    parser.add_argument("--ours-only", action="store_true", help="for batches that the plain step has no memory for")
    parser.add_argument("--compile", action="store_true", help="the ablation, or ours alone, with compiled layers too")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    flops = flops_per_sample(bench.training.model.config, bench.lengths, options.freeze_image_tower)
    difference = bench.difference()
    lines = compare(bench, options, flops)
    results = {
        "shape": what_of(options), "batch": bench.count, "lengths": bench.lengths, "flops_per_sample": flops,
        "loss_difference": difference, "steps": lines,
    }  # fmt: skip
    if options.ablation:
        results["ablation"] = ablation(bench, options, flops)
    what = what_of(options)
    own_lines = [line for line in lines if line["name"].startswith("ours")]
    claims = [claim(f"losses of {what}: ours and plain, fp32, greatest difference", difference, CLOSE, "")]
    if not options.ours_only:
        fewer = lines[0]["operations"] / lines[1]["operations"]
        claims.append(claim(f"step of {what}: operations of the plain step over ours", fewer, None, "x"))
    for line in own_lines:
        if not options.ours_only:
            claims.append(claim(f"step of {what}: {line['name']}, over plain, fp32", line["ratio"], FASTER, "x"))
        if "mfu_percent" in line and line["name"] == "ours, bf16":
            claims.append(claim(f"step of {what}: MFU", line["mfu_percent"], BUSY, "%"))
    write_report(options.json, claims, results, bench.device)
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
