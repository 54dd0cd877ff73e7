"""`ccmb quickstart` and `ccmb pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli.common.options import JsonFlag
from ccmb.cli.common.options import print_result as _result
from ccmb.cli.common.options import say_unreadable as _say_unreadable
from ccmb.core.signals import orderly_end
from ccmb.tasks.retrieval.table import retrieval_table


def quickstart(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("quickstart"),
    full: Annotated[
        bool, typer.Option("--full", help="For an hour or two: what ranking is for, captions and painted images.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Everything once, offline: draw a corpus, pre-train, evaluate, index, search, report.

    Running the same command again continues where it stopped.

    Example: ccmb quickstart --out quickstart objectives.fgd=off
    """
    from ccmb.demos.quickstart import closing_words, run_quickstart

    with orderly_end():
        report = run_quickstart(out, full=full, overrides=overrides or [])
    _result(report, as_json, f"{retrieval_table(report['retrieval'])}\n\n{closing_words(out, report)}")


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/RECIPE.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pre-train R2D2 from a recipe; the same command continues a stopped run.

    Example: CCMB_DATA=~/data ccmb pretrain flickr8k-cn training.steps=2000 --out runs/flickr8k
    """
    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.tasks.pretraining.batches import unreadable_images
    from ccmb.tasks.pretraining.recipe import PretrainRecipe
    from ccmb.tasks.pretraining.run import pretrain
    from ccmb.tasks.pretraining.stage_recipe import in_stages, joint_objectives

    path = find_recipe(recipe)
    typed = load_recipe(PretrainRecipe, path, overrides or [])
    run = out or Path("runs") / path.stem
    with orderly_end():
        model = pretrain(typed, run)
    of_all = joint_objectives(in_stages(typed)) if typed.stages else typed.objectives
    objectives = {"on": of_all.on(), "off": of_all.off()}
    unreadable = unreadable_images(run)
    _say_unreadable(unreadable)
    values = {"run": str(run), "model": str(model), "objectives": objectives, "unreadable": unreadable}
    _result(values, as_json, f"model: {model}")
