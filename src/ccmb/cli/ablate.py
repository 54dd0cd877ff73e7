"""`ccmb ablate`: a recipe with and without its parts, over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.options import JsonFlag, RerankKOption, TextFieldOption, print_result
from ccmb.core.signals import orderly_end

LadderOption = Annotated[
    Path | None, typer.Option(help="A YAML file of own rungs, NAME: {KEY: VALUE}, instead of the paper's objectives.")
]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time; by default one for each GPU, and one on the CPU.")
]


def ablate(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe of pre-training.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes that all rungs share")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where everything goes; by default runs/RECIPE-ablation.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each rung, from training.seed on.")] = 3,
    rungs: Annotated[
        str | None, typer.Option(help="Some rungs of the ladder, such as towers,fgr,all; by default every one.")
    ] = None,
    ladder: LadderOption = None,
    jobs: JobsOption = None,
    split: Annotated[str, typer.Option(help="Held-out split to measure on.")] = "val",
    text_field: TextFieldOption = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="NAME=pairs.jsonl or NAME=FOLDER to measure on instead.")
    ] = None,
    rerank_k: RerankKOption = 128,
    as_json: JsonFlag = False,
) -> None:
    """Train a ladder of variants of a recipe with several seeds, measure all, and compare; run it again to go on.

    Exit code 1 if a run failed.

    Example: ccmb ablate quickstart data.folder=quickstart/corpus --out ablation --seeds 3

    Example: ccmb ablate flickr8k-cn --rungs towers,fgr,all --text-field captions --jobs 2
    """
    from ccmb.core.config.recipe_files import find_recipe
    from ccmb.tasks.ablation.run import Ablation
    from ccmb.tasks.ablation.run import ablate as run_ablation
    from ccmb.tasks.ablation.table import ablation_table

    path = find_recipe(recipe)
    folder = out or Path("runs") / f"{path.stem}-ablation"
    names = [name for name in (rungs or "").split(",") if name]
    measure: dict[str, Any] = {"split": split, "fields": text_field, "data": data, "rerank_k": rerank_k}
    wanted = Ablation(
        recipe=path,
        out=folder,
        overrides=overrides or [],
        seeds=seeds,
        rungs=names,
        ladder=ladder,
        jobs=jobs,
        **measure,
    )
    with orderly_end():
        result = run_ablation(wanted)
    if result.report is not None:
        pages = ", ".join(str(folder / f"ablation.{form}") for form in ("json", "md", "html"))
        print_result(result.report, as_json, f"{ablation_table(result.report)}\n{pages}")
    for line in result.failed:
        typer.echo(f"ccmb: {line}", err=True)
    if result.failed:
        raise typer.Exit(1)
