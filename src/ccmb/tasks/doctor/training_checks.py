"""Checks of a recipe and of its run's log so far. Each is a function of plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ccmb.tasks.doctor.findings import CheckResult, graded, in_percent
from ccmb.training.recipe import OptimizerRecipe

# Peak learning rates of AdamW (low, high, wrong) for training from nothing and from trained weights. The latter are for
# a batch of 128, and grow with the square root of the batch.
SCRATCH_LR, TRAINED_LR = (1e-5, 5e-3, 2e-2), (1e-7, 1e-4, 1e-3)
MUON_LR = (2e-2, 1e-1)
STEPS_TO_JUDGE = 200


def check_lr(options: OptimizerRecipe, batch: int, trained: bool) -> CheckResult:
    """Check the learning rates of AdamW and Muon, for training from nothing or from trained weights."""
    low, high, wrong = TRAINED_LR if trained else SCRATCH_LR
    factor = math.sqrt(batch / 128) if trained else 1.0
    lr = _highest(options, trained)
    start = "from trained weights" if trained else "from nothing"
    message = f"lr {lr:g} {start} at a batch of {batch}"
    if options.muon_lr_scale:
        message += f"; Muon at {lr * options.muon_lr_scale:g}"
        if not trained and lr * options.muon_lr_scale >= MUON_LR[0]:
            fix = f"lower optimizer.muon_lr_scale to {2.5 * 2e-3 / lr:.2g}, or optimizer.lr"
            warning, problem = MUON_LR
            return graded(
                "learning rate",
                lr * options.muon_lr_scale,
                warning=warning,
                problem=problem,
                message=message,
                fix=fix,
            )
    if lr < low * factor:
        return CheckResult(
            "learning rate", "warning", f"{message}: so low that little is learned", "raise optimizer.lr"
        )
    fix = f"set optimizer.lr to {high * factor / 2:.2g} or lower"
    fix += ", or trained weights are lost" if trained else ""
    return graded(
        "learning rate",
        lr,
        warning=math.nextafter(high * factor, 1),
        problem=wrong * factor,
        message=message,
        fix=fix,
    )


def _highest(options: OptimizerRecipe, trained: bool) -> float:
    """The highest of the rates; of trained towers with rates of their own the higher of these."""
    if trained and options.image_lr and options.text_lr:
        return max(options.image_lr, options.text_lr)
    rates = options.lr, options.cross_lr, options.image_lr, options.text_lr
    return max(rate for rate in rates if rate)


def check_warmup(warmup: int, steps: int) -> CheckResult:
    """Check the share of the training in which the learning rate grows."""
    part = warmup / steps
    message = f"{warmup} of {steps:,} steps ({in_percent(part)})"
    fix = f"set optimizer.warmup_steps to some {max(1, round(0.05 * steps))}"
    if not warmup:
        return CheckResult("warm-up", "warning", f"{message}: the first steps are full ones", fix)
    return graded("warm-up", part, warning=0.3, problem=1.0, message=message, fix=fix)


def check_threads(threads: int | None, workers: int, cores: int, gpu: bool) -> CheckResult:
    """Check threads and reading processes against the processor's cores."""
    message = f"{cores} cores, {workers} reading processes"
    if gpu:
        if not workers:
            return CheckResult(
                "processor", "warning", message, "set data.num_workers to 4 or more, or the GPU waits for images"
            )
        fix = f"set data.num_workers to {max(1, cores - 1)}"
        return graded(
            "processor", workers / cores, warning=math.nextafter(1, 2), problem=math.inf, message=message, fix=fix
        )
    used = threads or cores
    message += f", {used} training threads" + ("" if threads else " (all)")
    fix = f"set training.threads to {max(1, cores - 1)} or fewer"
    return graded("processor", used / cores, warning=math.nextafter(1, 2), problem=math.inf, message=message, fix=fix)


def check_shards(shards: int, streams: int | None, workers: int) -> CheckResult:
    """Check that there are enough shards for all that read at the same time, and that they share them evenly."""
    readers = max(workers, streams or 1)
    message = f"{shards} shards for {workers} reading processes" + (f" and {streams} streams" if streams else "")
    if shards < readers:
        return CheckResult(
            "shards", "problem", message, f"write at least {readers} shards, or lower data.num_workers and data.streams"
        )
    if shards < 4 * readers:
        return CheckResult(
            "shards", "warning", message, f"with some {4 * readers} shards the readers end about together"
        )
    return CheckResult("shards", "ok", message)


def check_gcpr(
    log: Sequence[dict[str, float]], batch: int, warmup: int, fix: str = "lower optimizer.lr"
) -> CheckResult | None:
    """Check GCPR against ln(batch), its value if all pairs look alike; None if it is not logged.

    Args:
        fix: what to do if GCPR is not finite.
    """
    points = [(line["step"], line["gcpr"]) for line in log if "gcpr" in line]
    if not points:
        return None
    step, chance = int(points[-1][0]), math.log(batch)
    latest = sum(value for _, value in points[-5:]) / len(points[-5:])
    message = f"GCPR {latest:.3f} at step {step:,}; ln({batch}) = {chance:.3f} is chance"
    if not math.isfinite(latest):
        return CheckResult("loss", "problem", message, fix)
    if step < max(STEPS_TO_JUDGE, 2 * warmup):
        return CheckResult("loss", "ok", f"{message}; too early to tell")
    if latest < 0.95 * chance:
        return CheckResult("loss", "ok", message)
    meaning = "flat at chance: all pairs look alike to the towers" if latest < 1.1 * chance else "worse than chance"
    fix = (
        "try a tenth of optimizer.lr (the towers have collapsed), then ten times (they have not moved); if neither "
        "helps, see whether texts and images belong together"
    )
    return CheckResult("loss", "problem", f"{message}: {meaning}", fix)


def check_waiting(log: Sequence[dict[str, float]], workers: int) -> CheckResult | None:
    """Check the share of time spent waiting for data; None if it is not logged."""
    waits = [line["data_wait"] for line in log[-20:] if "data_wait" in line]
    if not waits:
        return None
    message = f"{in_percent(median(waits))} of the time, with data.num_workers={workers}"
    return graded(
        "data wait",
        median(waits),
        warning=0.1,
        problem=math.inf,
        message=message,
        fix=f"set data.num_workers={workers + 2}, or smaller images",
    )


def check_disk(size: int, kept: int, free: int) -> CheckResult:
    """Check the free bytes against the most checkpoints, of `size` bytes each, that exist at a time."""
    message = f"{kept} checkpoints of some {size / 2**30:.2f} GiB at a time, {free / 2**30:,.1f} GiB free"
    fix = "free some space, or set a lower training.save_total_limit"
    return graded("disk", kept * size / max(1, free), warning=0.5, problem=1.0, message=message, fix=fix)


def check_time(steps: int, done: int, batch: int, rate: float, checkpoint_every: int, measured: bool) -> CheckResult:
    """Report how long the training takes, and check how much time a crash would cost.

    Args:
        rate: samples per second, `measured` in the run or only estimated.
    """
    left, lost = (steps - done) * batch / rate / 60, checkpoint_every * batch / rate / 60
    about = "" if measured else "very roughly, "
    message = (
        f"{about}{steps - done:,} steps to go in {_minutes(left)} at {rate:,.3g} samples/s; "
        f"a checkpoint every {_minutes(lost)}"
    )
    suggested = max(1, round(checkpoint_every * 30 / max(lost, 1e-9)))
    fix = f"set training.checkpoint_every to {suggested}: a crash loses what is since"
    return graded("time", lost, warning=60, problem=math.inf, message=message, fix=fix)


def _minutes(minutes: float) -> str:
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.1f} min"
