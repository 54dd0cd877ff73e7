"""What a second process adds: samples/s of two gloo processes against one, each with one thread and its own batch.

    python benchmarks/pretrain_scaling.py --shape tiny --json scaling.json

Worlds of one and of two processes are started in turn; each trains as a run under torchrun does.
Efficiency is the rate of two over twice that of one: what is lost goes to communication and to shared memory.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ccmb.core.device import precision
from ccmb.objectives.pretraining import sharding_units
from ccmb.training.distributed import barrier, process_group
from ccmb.training.parallel import clip_gradients, wrap
from paired import claim, write_report
from step_shapes import draw_lengths, make_batch, new_training

CPU = torch.device("cpu")


def work(rank: int, processes: int, port: int, options: argparse.Namespace, out: str) -> None:
    """One process: some steps, of which the first warms up; the first process writes what they took."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group():
        training = new_training(options.shape, options.queue, CPU)
        module = wrap(training, options.parallel, sharding_units(training.model, training.teacher))
        config, parameters = training.model.config, [p for p in training.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)
        lengths = draw_lengths(options.batch, config.max_text_tokens, rank)
        batch = make_batch(config, lengths, config.max_text_tokens // 2, rank)
        seconds = []
        for number in range(1 + options.steps):
            barrier()
            start = time.perf_counter()
            torch.manual_seed(number)
            with precision(CPU, options.precision):
                losses, _ = module(batch, 0.5, torch.Generator().manual_seed(number))
            training.total(losses).backward()
            module.after_backward()
            clip_gradients(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            training.after_step()
            barrier()
            seconds.append(time.perf_counter() - start)
    if rank == 0:
        Path(out).write_text("\n".join(map(str, seconds[1:])))


def seconds_of(processes: int, options: argparse.Namespace) -> list[float]:
    """What each step took in a world of so many processes."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        out = str(Path(folder) / "seconds")
        torch.multiprocessing.spawn(work, (processes, port, options, out), nprocs=processes)
        return [float(line) for line in Path(out).read_text().splitlines()]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["test", "tiny", "base"], default="tiny", help="a preset's")
    parser.add_argument("--batch", type=int, default=8, help="pairs of each process")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each world")
    parser.add_argument("--repeats", type=int, default=3, help="worlds of each kind, in turn")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--queue", type=int, default=36864, help="features in the teacher's queue")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    rounds = [
        {count: statistics.median(seconds_of(count, options)) for count in (1, 2)} for _ in range(options.repeats)
    ]
    rates = {count: statistics.median(count * options.batch / seconds[count] for seconds in rounds) for count in (1, 2)}
    efficiency = 100 * statistics.median(seconds[1] / seconds[2] for seconds in rounds)
    print("| processes | samples/s |\n|--:|--:|")
    for count, rate in rates.items():
        print(f"| {count} | {rate:.2f} |")
    claims = [claim(f"step of {options.shape}: scaling from 1 to 2 processes, efficiency", efficiency, None, "%")]
    results = {"shape": options.shape, "batch": options.batch, "rounds": rounds, "samples_per_second": rates}
    write_report(options.json, claims, results, CPU)
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
