"""`ccmb ablate`: train every rung with every seed, measure all on held-out data, compare, and write the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ccmb.core.config.recipe_files import load_recipe
from ccmb.core.errors import CcmbError, Stopped
from ccmb.core.files import atomic_write, sole_use, write_json
from ccmb.core.progress import progress
from ccmb.tasks.ablation.evaluation import HeldOut, Measured, is_measured, measure, open_fields
from ccmb.tasks.ablation.ladder import Rung, choose, default_ladder, read_ladder
from ccmb.tasks.ablation.page import ablation_page
from ccmb.tasks.ablation.plan import Run, plan_runs, write_base
from ccmb.tasks.ablation.processes import Outcome, environments, starter, train
from ccmb.tasks.ablation.statistics import compare_rungs
from ccmb.tasks.ablation.table import ablation_markdown
from ccmb.tasks.common.resampling import DRAWS
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.training.runs.run_folder import read_run

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is asked for.

    Attributes:
        recipe: the file of a pre-training recipe.
        overrides: `key=value` changes that all rungs share.
        seeds: how many, from the recipe's `training.seed` on.
        rungs: names to choose from the ladder; all without any.
        ladder: a file of rungs instead of the default ones.
        jobs: runs at a time, see `environments`.
        split, fields, data: what is measured on, see `open_fields`.
        rerank_k: candidates that the second stage ranks.
    """

    recipe: Path
    out: Path
    overrides: Sequence[str] = ()
    seeds: int = 3
    rungs: Sequence[str] = ()
    ladder: Path | None = None
    jobs: int | None = None
    split: str = "val"
    fields: Sequence[str] | None = None
    data: str | None = None
    rerank_k: int = 128


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    Attributes:
        report: see `docs/ablation.md`; None where no run has finished.
        failed: a line for each run that failed.
    """

    report: dict[str, Any] | None
    failed: list[str]


def ablate(wanted: Ablation) -> Result:
    """Run the ablation in its folder, or go on there, and write `ablation.json`, `ablation.md` and `ablation.html`.

    Each run is an ordinary run folder, `runs/RUNG/seed-S`. A run that fails is reported, and the others go on.

    Raises:
        UsageError: a key, rung, field or option is wrong.
        CcmbError: the data is missing, another process works in the folder, or it holds another ablation.
        Stopped: a signal asked for it; what is finished is kept.
    """
    recipe = load_recipe(PretrainRecipe, wanted.recipe, wanted.overrides)
    ladder = choose(read_ladder(wanted.ladder) if wanted.ladder else default_ladder(recipe), wanted.rungs)
    held_out = open_fields(recipe.data, wanted.split, wanted.fields, wanted.data)
    with closing(sole_use(wanted.out, "runs an ablation in it")) as lock:
        base = write_base(recipe, wanted.overrides, wanted.out)
        runs = plan_runs(base, ladder, wanted.seeds, wanted.out)
        places = environments(recipe.training.device, wanted.jobs)
        outcome = train(runs, places, starter(base, lock))
        measured = _measure_all([run for run in runs if run.is_finished], held_out, wanted.rerank_k, outcome)
        if not any(measured.values()):
            return Result(None, _lines(outcome))
        report = _report(wanted, ladder, runs, held_out=held_out, measured=measured, outcome=outcome)
        _write(wanted.out, report, runs)
    return Result(report, _lines(outcome))


def _lines(outcome: Outcome) -> list[str]:
    return [f"{name} failed: {reason}" for name, reason in outcome.failed.items()]


def _measure_all(
    runs: Sequence[Run], held_out: Sequence[HeldOut], depth: int, outcome: Outcome
) -> dict[str, dict[tuple[str, int], Measured]]:
    """What each run ranks, by field, rung and seed; a model that cannot be measured counts as failed."""
    measured: dict[str, dict[tuple[str, int], Measured]] = {one.field: {} for one in held_out}
    try:
        with progress("measure", len(runs), "runs") as advance:
            for run in runs:
                try:
                    of_run = measure(run, held_out, depth)
                except CcmbError as error:
                    outcome.failed[run.name] = f"could not be measured: {error}"
                    of_run = {}
                for name, values in of_run.items():
                    measured[name][run.rung, run.seed] = values
                advance(1, run.name)
    except KeyboardInterrupt:
        kept = sum(is_measured(run, held_out, depth) for run in runs)
        raise Stopped(
            f"stopped; {len(runs)} runs are finished and {kept} of them measured; run the same command again to go on",
            by_user=True,
        ) from None
    return measured


def _report(
    wanted: Ablation,
    ladder: Sequence[Rung],
    runs: Sequence[Run],
    held_out: Sequence[HeldOut],
    measured: Mapping[str, Mapping[tuple[str, int], Measured]],
    outcome: Outcome,
) -> dict[str, Any]:
    fields = {}
    for one in held_out:
        of_field = measured[one.field]
        some = next(iter(of_field.values()))
        by_rung = {
            rung.name: {seed: values for (name, seed), values in of_field.items() if name == rung.name}
            for rung in ladder
        }
        fields[one.field] = {
            "images": some.images,
            "texts": some.texts,
            "equal_texts": some.equal_texts,
            "unreadable": one.unreadable,
            "rungs": compare_rungs(ladder, by_rung),
        }
    return {
        "schema": SCHEMA,
        "recipe": wanted.recipe.stem,
        "overrides": list(wanted.overrides),
        "data": held_out[0].data.name,
        "split": held_out[0].data.split,
        "rerank_k": wanted.rerank_k,
        "convention": "equal_texts",
        "draws": DRAWS,
        "seeds": sorted({run.seed for run in runs}),
        "ladder": [_rung_values(rung, [run for run in runs if run.rung == rung.name], outcome) for rung in ladder],
        "fields": fields,
    }


def _rung_values(rung: Rung, runs: Sequence[Run], outcome: Outcome) -> dict[str, Any]:
    finished = [run for run in runs if run.is_finished and run.name not in outcome.failed]
    hours = [hours for run in finished if (hours := read_run(run.folder).hours) is not None]
    return {
        "name": rung.name,
        "overrides": list(rung.overrides),
        "compared_with": rung.compared_with,
        "objectives": runs[0].objectives,
        "runs": {str(run.seed): f"runs/{run.rung}/{run.folder.name}" for run in finished},
        "failed": {str(run.seed): outcome.failed[run.name] for run in runs if run.name in outcome.failed},
        "train_seconds": round(3600 * math.fsum(hours) / len(hours), 1) if hours else None,
    }


def _write(out: Path, report: Mapping[str, Any], runs: Sequence[Run]) -> None:
    write_json(out / "ablation.json", report)
    drawn = {entry["name"]: next(iter(entry["runs"].values()), None) for entry in report["ladder"]}
    curves = [replace(read_run(out / folder), name=folder.removeprefix("runs/")) for folder in drawn.values() if folder]
    for name, text in (("ablation.md", ablation_markdown(report)), ("ablation.html", ablation_page(report, curves))):
        with atomic_write(out / name) as file:
            file.write(text)
