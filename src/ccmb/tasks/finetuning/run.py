"""Fine-tuning: from a model, a recipe and data to a run folder, with what it gained and what it cost.

One core for all families of tasks; what differs between them is in their `Finetuner`s.

The run folder holds what every run's does, and `finetune.json` and `report.html` with the metrics before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ccmb.core.device import choose_device, cpu_threads
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write, read_json, write_json
from ccmb.data.sample import Sample
from ccmb.data.seen_images import seen_mark
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.seen import seen_by, seen_in_training, warn_of_seen
from ccmb.tasks.finetuning.compare import compare
from ccmb.tasks.finetuning.finetuner import DrawnMetrics, Finetuner, HeldOutT, ModelT
from ccmb.tasks.finetuning.interpolate import interpolate
from ccmb.tasks.finetuning.page import finetuned_page
from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.frozen_states import check_frozen_states
from ccmb.tasks.pretraining.model_card import write_model_card
from ccmb.tasks.pretraining.run import train_model
from ccmb.tasks.pretraining.starting import check_batch, check_best, in_steps
from ccmb.tasks.registry import finetuner_of
from ccmb.training.distributed import World, process_group
from ccmb.training.model_selection import read_best
from ccmb.training.recipe import BestRecipe
from ccmb.training.runs.run_folder import read_run
from ccmb.training.validation import PREFIX, Validation

MIXES = (0.25, 0.5, 0.75)


def finetune(
    recipe: FinetuneRecipe,
    out: Path,
    also: Sequence[tuple[str, str, Sequence[str]]] = (),
    test: bool = False,
    mixes: bool = False,
) -> dict[str, Any] | None:
    """Run the recipe in the folder `out`, or continue it there, and measure the model before and the one after.

    Args:
        also: specification, split and text fields of further sets to measure on.
        test: measure on the test split too. It never chooses anything.
        mixes: measure weights between the two models too.

    Returns:
        What `finetune.json` holds; None on all ranks of a world but the first.

    Raises:
        UsageError: the recipe names no model, or what is asked for cannot be measured.
        CcmbError: missing or faulty data or model, or a run folder that another recipe made.
    """
    family = finetuner_of(recipe.task)
    if not recipe.model.init_from:
        raise UsageError("nothing to start from; give --model with a run, a model folder or a hub id")
    check_frozen_states(recipe)
    with cpu_threads(recipe.training.threads), process_group() as joined:
        sets = _open_sets(family, recipe, also, test)
        recipe = _train(family, recipe, out, sets, joined)
        if not joined.is_main:
            return None
    asked = {"also": [[spec, split, list(fields)] for spec, split, fields in also], "test": test, "mixes": mixes}
    path, (model, processor) = out / "finetune.json", family.load(out)
    report = read_json(path) if path.exists() else {}
    if report.get("asked") != asked:
        report = {
            "asked": asked,
            **_measure(family, recipe, model=model, processor=processor, sets=sets, out=out, mixes=mixes),
        }
        write_json(path, report)
    if recipe.validation.split is not None:
        shown = report["sets"][0]["details"]["after"] if family.in_model_card else None
        write_model_card(out / "model", model, recipe, out, shown)
    with atomic_write(out / "report.html") as page:
        page.write(finetuned_page(report, read_run(out), family.labels))
    return report


def _open_sets(
    family: Finetuner[ModelT, HeldOutT],
    recipe: FinetuneRecipe,
    also: Sequence[tuple[str, str, Sequence[str]]],
    test: bool,
) -> list[HeldOutT]:
    """All that is measured on, validation first; opened before the training, so that its faults are known then."""
    split, sets = recipe.validation.split, list[HeldOutT]()
    if split is not None:
        if split == recipe.data.split:
            raise UsageError(f"validation.split={split}: that is what is trained on; name another split")
        try:
            sets.append(family.open_held_out(recipe, split))
        except CcmbError as error:
            fix = "name another with validation.split, or do without by validation.split="
            raise type(error)(f"{error}; {fix}") from None
    if test:
        sets.append(family.open_held_out(recipe, "test"))
    return sets + [family.open_also(*further) for further in also]


def _train(
    family: Finetuner[ModelT, HeldOutT], recipe: FinetuneRecipe, out: Path, sets: Sequence[HeldOutT], joined: World
) -> FinetuneRecipe:
    """Train, or go on, and return the recipe as it was resolved."""
    check_batch(recipe, joined)
    samples, images = family.open_training(recipe.data)
    recipe = resolve(recipe, family, samples)
    seen = seen_in_training(recipe.data, samples, recipe.model.init_from)
    if joined.is_main:
        warn_of_seen(seen, sets)
    every = recipe.validation.every
    if every and joined.size > 1 and recipe.training.parallel == "fsdp":
        raise UsageError("validation needs all weights on one process; set training.parallel=ddp or validation.every=0")
    measured = [PREFIX + name for name in family.metrics] if every else []
    check_best(recipe, [*family.logged(recipe), *measured])
    model, processor = family.network(recipe)
    task = family.task(model, processor, recipe)
    batches = family.batches(samples, images, processor, recipe, out, task=task)
    validation = None
    if every:
        validation = Validation(every, lambda: family.validate(model, processor, sets[0], recipe))
    train_model(task, model, processor, recipe, out, batches=batches, validation=validation, seen=seen)
    return recipe


def resolve(recipe: FinetuneRecipe, family: Finetuner[ModelT, HeldOutT], samples: Sequence[Sample]) -> FinetuneRecipe:
    """The recipe with nothing left open that depends on the data."""
    texts = sum(len(sample.texts) for sample in samples)
    recipe = in_steps(recipe, samples)
    training, validation = recipe.training, recipe.validation
    if validation.split is None:
        every = 0
    elif validation.every is None:
        every = min(training.steps, max(1, texts // training.batch_size))
    else:
        every = validation.every
    if every and training.best is None:
        best = BestRecipe(metric=PREFIX + family.metrics[0], mode="max")
        training = training.model_copy(update={"best": best})
    validation = validation.model_copy(update={"every": every})
    return recipe.model_copy(update={"training": training, "validation": validation})


def _chosen(recipe: FinetuneRecipe, out: Path) -> dict[str, Any] | None:
    """The step whose weights are the finished model's, if validation chose it; by another metric the best checkpoint is
    kept, and the finished model is the last step's."""
    best = read_best(out / "checkpoints") if recipe.validation.every else None
    return best if best and best["figure"].startswith(PREFIX) else None


def _measure(
    family: Finetuner[ModelT, HeldOutT],
    recipe: FinetuneRecipe,
    model: ModelT,
    processor: R2D2Processor,
    sets: Sequence[HeldOutT],
    out: Path,
    mixes: bool,
) -> dict[str, Any]:
    """The model before, the finished one, and if asked for weights between them, on all sets."""
    first, _ = family.network(recipe)
    before, after = first.state_dict(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    known = family.knows(str(recipe.model.init_from))
    module: nn.Module = model
    module.to(choose_device(recipe.training.device))
    measured: dict[float, list[DrawnMetrics]] = {}
    for share in sorted({0.0, 1.0, *(MIXES if mixes else ())}):
        model.load_state_dict(interpolate(before, after, share))
        measured[share] = [family.measure(model, processor, one, recipe, share > 0 or known) for one in sets]
    run = read_run(out)
    marks = [("before", seen_by(str(recipe.model.init_from))), ("after", seen_by(out))]
    return {
        "task": recipe.task,
        "before": recipe.model.init_from,
        "after": str(out / "model"),
        "steps": recipe.training.steps,
        "chosen": _chosen(recipe, out),
        "sets": [
            {
                "name": dataset.name,
                "split": dataset.split,
                "seen": {name: seen_mark(seen, [sample.image for sample in dataset.samples]) for name, seen in marks},
                **compare({share: of_share[index] for share, of_share in measured.items()}),
            }
            for index, dataset in enumerate(sets)
        ],
        "seconds": {"train": None if run.hours is None else round(3600 * run.hours, 1)},
    }
