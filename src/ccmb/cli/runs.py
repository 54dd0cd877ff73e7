"""The verbs around a training run, `ccmb presets`, `doctor` and `runs`; and `ccmb models`, for who trains none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli.common.options import JsonFlag, print_result
from ccmb.core.json_values import json_values


def runs(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw the curves into this .html or .png.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare runs: a table, and the curves of all their metrics in one page or image. A run may still be going on.

    Example: ccmb runs runs/flickr8k runs/without-fgr --out curves.html
    """
    from ccmb.training.runs.run_folder import read_run
    from ccmb.training.runs.table import runs_table, summary

    runs = [read_run(folder) for folder in folders]
    if out:
        from ccmb.training.runs.page import draw_curves

        draw_curves(runs, out)
    print_result([summary(run) for run in runs], as_json, runs_table(runs))


def doctor(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe of pre-training or fine-tuning.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="What fine-tuning starts from; the recipe is one of fine-tuning."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder of this recipe; by default runs/RECIPE if it is there.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check data, network and recipe for what most often goes wrong, before training or when a loss stays flat.

    Exit code 1 if there is a problem. Nothing is written.

    Example: ccmb doctor flickr8k-cn training.batch_size=256 --run runs/flickr8k-cn

    Example: ccmb doctor muge data.folder=downloads/muge --model runs/flickr8k
    """
    from ccmb.core.config.recipe_files import load_recipe
    from ccmb.tasks.doctor.findings import results_table
    from ccmb.tasks.doctor.run import examine
    from ccmb.tasks.finetuning.recipe import FinetuneRecipe, find_any_recipe
    from ccmb.tasks.pretraining.recipe import PretrainRecipe

    path, tunes = find_any_recipe(recipe, bool(model))
    changes = [*(overrides or []), *([f"model.init_from={model}"] if model else [])]
    typed = load_recipe(FinetuneRecipe if tunes else PretrainRecipe, path, changes)
    usual = Path("runs") / (f"{path.stem}-finetuned" if tunes else path.stem)
    findings = examine(typed, run or (usual if (usual / "metrics.jsonl").is_file() else None))
    print_result([json_values(finding, fix="mend") for finding in findings], as_json, results_table(findings))
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def presets() -> None:
    """Print the networks that have a name, with their parameters and operations, as a Markdown table.

    Example: ccmb presets
    """
    from ccmb.r2d2.presets import preset_table

    typer.echo(preset_table())


ENDING = (
    "R2D2's own: a run or model folder. Other names: open_clip:ARCHITECTURE/WEIGHTS, sentence_transformers:NAME, "
    "modelscope:ID, and A + B, which ranks the candidates of A by B (or --ranker B). Where huggingface.co cannot be "
    "reached, set HF_ENDPOINT to a mirror."
)


def models(as_json: JsonFlag = False) -> None:
    """List published models that are worth knowing: licence, size, languages, and what each is good for.

    Example: ccmb models
    """
    from ccmb.inference.models.known import KNOWN

    lines = []
    for known in KNOWN:
        option = "--ranker" if known.ranks else "--model"
        lines.append(f"{option} {known.name}")
        lines.append(f"    {known.good_for}")
        lines.append(f"    {known.licence}; {known.parameters} parameters; texts: {known.languages}")
        if known.fetch:
            lines.append(f"    {known.fetch}")
    print_result([asdict(known) | {"fetch": known.fetch} for known in KNOWN], as_json, "\n".join([*lines, "", ENDING]))
