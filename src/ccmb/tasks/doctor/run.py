"""Checks before training: the usual causes of failure or of learning nothing, each with its metric and fix."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from ccmb.core.config.recipe_files import data_folder
from ccmb.core.device import choose_device, computes_bf16
from ccmb.core.errors import CcmbError
from ccmb.core.progress import Advance, progress
from ccmb.data.images.source import ImageSource
from ccmb.data.sample import Sample
from ccmb.data.shards.locate import find_shards
from ccmb.objectives.flops import StepFlops
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.doctor import data_checks, training_checks
from ccmb.tasks.doctor.data_checks import Line
from ccmb.tasks.doctor.findings import CheckResult
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.model import build_model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.stage_recipe import in_stages
from ccmb.tasks.registry import finetuner_of
from ccmb.training.nonfinite import what_to_lower
from ccmb.training.recipe import TrainingRecipe
from ccmb.training.runs.run_folder import read_run

# The most images to decode, files to compare and texts to count; the recipe's seed decides which.
IMAGES, FILES, TEXTS = 500, 5000, 20_000
EFFICIENCY = 0.35  # share of the speed of a plain matrix product that training reaches


def examine(recipe: PretrainRecipe, run: Path | None = None) -> list[CheckResult]:
    """All checks of a recipe, its data and, if there is one, its run so far; of a recipe in stages those of each."""
    findings: list[CheckResult] = []
    if recipe.stages:
        for number, (stage, whole) in enumerate(zip(recipe.stages, in_stages(recipe), strict=True), start=1):
            folder = None if run is None else run / "stages" / f"{number}-{stage.name}"
            logged = folder if folder and (folder / "metrics.jsonl").is_file() else None
            findings += [replace(one, check=f"{stage.name}: {one.check}") for one in examine(whole, logged)]
        return findings
    log = [] if run is None else read_run(run).lines
    lines: list[Line] = []
    if recipe.data.shards and not isinstance(recipe, FinetuneRecipe):
        findings.append(_check_shards(recipe, recipe.data.shards))
    else:
        new, lines = _check_pairs(recipe)
        findings += new
    rate = _logged_rate(log)
    if isinstance(recipe, FinetuneRecipe):
        findings += _check_validation(recipe)
    if lines:
        new, guess = _check_network(recipe, lines, run)
        findings += new
        rate = rate or guess
    recipe = recipe.model_copy(update={"training": _in_steps(recipe, lines)})
    return findings + list(_check_training(recipe, log, rate))


def _in_steps(recipe: PretrainRecipe, lines: Sequence[Line]) -> TrainingRecipe:
    return recipe.training.in_steps(sum(len(line.texts) for line in lines))


def _check_pairs(recipe: PretrainRecipe) -> tuple[list[CheckResult], list[Line]]:
    """Checks of the pairs and images, and the lines of the trained split."""
    data, batch = recipe.data, recipe.training.batch_size
    try:
        if data.dataset or data.shards or data.languages or _task_of(recipe) == "matching":
            samples, images = _open_training(recipe)
            all_lines = [
                Line(row, sample.image, sample.split, sample.texts, 0) for row, sample in enumerate(samples, start=1)
            ]
            faults: list[str] = []
        else:
            folder = data_folder(str(data.folder))
            all_lines, faults = data_checks.read_lines(folder / data.pairs, data.fields)
            images = ImageSource.open(folder / data.images)
    except CcmbError as error:
        return [CheckResult("data", "problem", str(error), "without data nothing else can be checked")], []
    read = [line for line in all_lines if line.split == data.split]
    lines = data_checks.merged(read)
    if not lines and all_lines:
        splits = ", ".join(sorted({line.split for line in all_lines}))
        return [
            CheckResult("data", "problem", f"no line is of split '{data.split}'", f"data.split is one of: {splits}")
        ], []
    names = sorted({line.image for line in lines})
    names = Random(recipe.training.seed).sample(names, len(names))
    tried, compared = names[:IMAGES], names[:FILES]
    with progress("look at", len(tried) + len(compared), "images") as advance:
        unreadable = data_checks.unreadable_of(images, _advancing(tried, advance))
        digests = data_checks.digests_of(images, _advancing(compared, advance))
    return [
        data_checks.check_faults(faults, len(all_lines)),
        data_checks.check_empty_texts(read),
        data_checks.check_batch(len(lines), batch, _in_steps(recipe, lines).steps),
        data_checks.check_repeated_names(read),
        data_checks.check_leaks(all_lines, data.split),
        data_checks.check_unreadable(unreadable, len(tried), len(tried) < len(names)),
        data_checks.check_same_bytes(digests, len(compared) < len(names)),
        data_checks.check_shared_texts(lines, batch),
    ], lines


def _task_of(recipe: PretrainRecipe) -> str | None:
    """The task of a fine-tuning recipe; None for pre-training."""
    return recipe.task if isinstance(recipe, FinetuneRecipe) else None


def _open_training(recipe: PretrainRecipe) -> tuple[list[Sample], ImageSource]:
    if isinstance(recipe, FinetuneRecipe):
        return finetuner_of(recipe.task).open_training(recipe.data)
    return open_training(recipe.data)


def _check_validation(recipe: FinetuneRecipe) -> Iterator[CheckResult]:
    """Check whether the validation data, by which the best checkpoint is chosen, can be opened."""
    split = recipe.validation.split
    if split is None:
        yield CheckResult("validation", "warning", "none: nothing is measured or chosen", "set validation.split")
    elif split == recipe.data.split:
        yield CheckResult("validation", "problem", f"'{split}' is what is trained on", "set another validation.split")
    else:
        try:
            finetuner_of(recipe.task).open_held_out(recipe, split)
            yield CheckResult("validation", "ok", f"split '{split}' can be read")
        except CcmbError as error:
            yield CheckResult("validation", "problem", str(error), "name another with validation.split, or none by =")


def _advancing(names: Sequence[str], advance: Advance) -> Iterator[str]:
    for name in names:
        yield name
        advance()


def _check_shards(recipe: PretrainRecipe, sources: Sequence[str]) -> CheckResult:
    try:
        count = len(find_shards(sources))
    except CcmbError as error:
        return CheckResult("shards", "problem", str(error), "data.shards names folders, tars or globs of them")
    return training_checks.check_shards(count, recipe.data.streams, recipe.data.num_workers)


def _check_network(
    recipe: PretrainRecipe, lines: Sequence[Line], run: Path | None
) -> tuple[list[CheckResult], float | None]:
    """Checks that need the network and its tokenizer, and samples per second as estimated from its operations."""
    rng = Random(recipe.training.seed)
    some = rng.sample(lines, min(TEXTS, len(lines)))
    samples = [Sample(line.image, line.texts) for line in some if line.texts]
    torch.manual_seed(recipe.training.seed)
    if isinstance(recipe, FinetuneRecipe) and not recipe.model.init_from:
        return [
            CheckResult("network", "problem", "nothing to start from", "give --model, or model.init_from=MODEL")
        ], None
    try:
        if isinstance(recipe, FinetuneRecipe):
            model, processor = finetuner_of(recipe.task).network(recipe)
        else:
            model, processor = build_model(recipe.model, recipe.objectives, samples)
    except CcmbError as error:
        return [CheckResult("network", "problem", str(error), "correct the recipe's part model")], None
    lengths = text_lengths(processor, [text for sample in samples for text in sample.texts][:TEXTS])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    findings = [
        CheckResult("network", "ok", f"{parameters / 1e6:,.1f} M parameters"),
        _check_disk(recipe, parameters, run),
        data_checks.check_lengths(lengths, processor.max_text_tokens),
    ]
    # The operations of other tasks are not known.
    return findings, reckoned_rate(recipe, model, lengths) if _task_of(recipe) in (None, "retrieval") else None


def _check_disk(recipe: PretrainRecipe, parameters: int, run: Path | None) -> CheckResult:
    training, objectives = recipe.training, recipe.objectives
    # The weights and two moments of AdamW, the teacher, which is about the two towers, and the average.
    copies = 4 if objectives.tgd.weight or objectives.fgd.weight else 3
    copies += training.model_ema_decay is not None
    kept = training.save_total_limit + 1 + (training.best is not None)  # one more while it is written
    free = shutil.disk_usage(run or ".").free
    return training_checks.check_disk(4 * copies * parameters, kept, free)


def text_lengths(processor: R2D2Processor, texts: list[str]) -> list[int]:
    """The number of tokens of each text, special ones included, before it is cut."""
    return processor.lengths(texts)


def reckoned_rate(recipe: PretrainRecipe, model: R2D2Model, lengths: Sequence[int]) -> float | None:
    """Samples per second, estimated from the operations of a step and the speed of a matrix product on the device."""
    if not lengths:
        return None
    typical = [
        min(lengths[row % len(lengths)], model.config.max_text_tokens) for row in range(recipe.training.batch_size)
    ]
    flops = StepFlops(model.config, recipe.objectives)
    words = sum(typical) - 2 * len(typical)
    mean = sum(flops(typical, words, row / 10) for row in range(10)) / 10
    return EFFICIENCY * _product_speed(recipe) * len(typical) / mean


def _product_speed(recipe: PretrainRecipe, side: int = 768, seconds: float = 0.2) -> float:
    """Measured operations per second of a matrix product."""
    device = choose_device(recipe.training.device)
    gpu = device.type == "cuda"
    square = torch.ones(side * (8 if gpu else 1), side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    other, rounds = square.T.contiguous(), 0
    square @ other
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        square @ other
        rounds += 1
        if gpu:
            torch.cuda.synchronize(device)
    return rounds * 2 * square.shape[0] ** 2 * side / (time.perf_counter() - began)


def _check_training(
    recipe: PretrainRecipe, log: Sequence[dict[str, float]], rate: float | None
) -> Iterator[CheckResult]:
    options, training, workers = recipe.optimizer, recipe.training, recipe.data.num_workers
    towers_learn = list(recipe.model.frozen().values()) != ["all", "all"]
    trained = bool(recipe.model.init_from) or (isinstance(recipe.model.vision, str) and towers_learn)
    yield training_checks.check_lr(options, training.batch_size, trained)
    yield training_checks.check_warmup(options.warmup_steps, training.steps)
    device = torch.device("cpu")
    try:
        device = choose_device(training.device)
    except CcmbError as error:
        yield CheckResult("device", "problem", str(error), "set training.device=auto")
    gpu = device.type == "cuda"
    fix = what_to_lower(training.precision, computes_bf16(device, training.precision), options.lr)
    yield training_checks.check_threads(training.threads, workers, _cores(), gpu)
    if finding := training_checks.check_gcpr(log, training.batch_size, options.warmup_steps, fix):
        yield finding
    if finding := training_checks.check_waiting(log, workers):
        yield finding
    if rate:
        done = int(log[-1]["step"]) if log else 0
        measured = _logged_rate(log) is not None
        yield training_checks.check_time(
            training.steps,
            done=done,
            batch=training.batch_size,
            rate=rate,
            checkpoint_every=training.checkpoint_every,
            measured=measured,
        )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _logged_rate(log: Sequence[dict[str, float]]) -> float | None:
    rates = sorted(line["samples_per_second"] for line in log[-50:] if line.get("samples_per_second"))
    return rates[len(rates) // 2] if rates else None
