"""The verbs of fine-tuning: `ccmb finetune` tunes and compares, `ccmb mix` goes between two models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli.common.given import refuse_given
from ccmb.cli.common.options import JsonFlag, print_result, say_unreadable
from ccmb.core.errors import UsageError
from ccmb.core.signals import orderly_end


def finetune(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe of fine-tuning.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A run, model folder or hub id, of R2D2 or Chinese-CLIP, to start from."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/RECIPE-finetuned.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="NAME=pairs.jsonl or NAME=FOLDER to measure on too, for what may be lost; several times."),
    ] = None,
    also_split: Annotated[str, typer.Option(help="Which split of those.")] = "val",
    also_field: Annotated[
        list[str] | None, typer.Option(help="Text field of those that are own pairs; may be given several times.")
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Measure on the test split too; it never chooses.")] = False,
    mixes: Annotated[
        bool, typer.Option("--mixes", help="Measure weights between both models too: shares 0.25, 0.5, 0.75.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Fine-tune a model, keep the best by validation, and compare before and after; run it again to go on.

    Example: ccmb finetune retrieval data.folder=mydata --model runs/flickr8k --also flickr8k-cn=flickr8k-cn

    Example: ccmb finetune muge data.folder=downloads/muge --model OFA-Sys/chinese-clip-vit-base-patch16 --out runs/muge
    """
    from ccmb.cli.common.tables import comparison_table
    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
    from ccmb.tasks.finetuning.run import finetune as run_finetuning
    from ccmb.tasks.pretraining.batches import unreadable_images
    from ccmb.tasks.registry import finetuner_of

    path = find_recipe(recipe, FINETUNING)
    start = [f"model.init_from={model}"] if model else []
    if model and any(text.startswith(("model.init_from=", "model.start=")) for text in overrides or []):
        raise UsageError("--model and model.init_from= say the same; give one of them")
    typed = load_recipe(FinetuneRecipe, path, [*(overrides or []), *start])
    run = out or Path("runs") / f"{path.stem}-finetuned"
    if not also:
        refuse_given(context, "of --also", "also_split", "also_field", instead="give that too, or leave {} out")
    elif not finetuner_of(typed.task).reads_fields or all(Path(spec.rpartition("=")[2]).is_dir() for spec in also):
        refuse_given(context, "of own pairs with texts, and none is given with --also", "also_field")
    further = [(spec, also_split, also_field or ["texts"]) for spec in also or []]
    with orderly_end():
        report = run_finetuning(typed, run, further, test, mixes)
    if report is not None:  # on the first of several processes
        say_unreadable(unreadable_images(run))
        print_result(report, as_json, f"{comparison_table(report)}\nmodel: {run / 'model'}")


def mix(
    before: Annotated[str, typer.Argument(help="A run, model folder or hub id.")],
    after: Annotated[str, typer.Argument(help="The same, fine-tuned.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new model folder.")],
    share: Annotated[float, typer.Option(help="Of the weights after: 0 is before, 1 is after.")] = 0.5,
) -> None:
    """Write the model between two: most of what fine-tuning gained, and most of what it cost elsewhere back.

    Example: ccmb mix runs/flickr8k runs/muge-finetuned --share 0.5 --out mixed
    """
    from ccmb.tasks.finetuning.interpolate import mix as run_mix

    run_mix(before, after, share, out)
    typer.echo(f"model: {out}")
