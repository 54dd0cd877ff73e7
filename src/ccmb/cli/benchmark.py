"""The verbs of the benchmark: `ccmb benchmark` measures, `ccmb leaderboard` shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccmb.cli.caption import CaptionsFlag
from ccmb.cli.common.given import given, need_second_stage, refuse_given, refuse_unread
from ccmb.cli.common.options import (
    CascadeOption,
    ConventionOption,
    ImagesOption,
    JsonFlag,
    PrecisionOption,
    TextFieldOption,
    print_result,
)
from ccmb.cli.generate import (
    BestOfOption,
    FeaturesOption,
    GenerateFlag,
    GuidanceOption,
    JudgeOption,
    LimitOption,
    StepsOption,
)
from ccmb.cli.match import CLASSES_HELP, TemplatesOption
from ccmb.core.choices import Setting
from ccmb.core.errors import UsageError

if TYPE_CHECKING:
    from ccmb.benchmark.evaluation.sets import MeasuredSet


# Which options the sets of each family read; the others would do nothing with them.
READS = {
    "retrieval": ("images", "text_field", "depth", "precision", "cascade", "convention", "split"),
    "matching": ("images", "split"),
    "classification": ("classes", "templates", "class_depth", "split"),
    "captioning": ("images", "text_field", "captions", "split"),
    "generation": (
        "images", "text_field", "generate", "steps", "guidance", "best_of", "judge", "features", "limit", "split",
    ),
}  # fmt: skip
SECOND_STAGE = ("depth", "class_depth", "precision", "cascade")


def benchmark(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A run, model folder, hub id, folder of features, or open_clip:ARCHITECTURE/WEIGHTS, with LABEL= in "
            "front if you like; may be given several times.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            help="NAME=pairs.jsonl, labelled or not, or NAME=FOLDER of a published set or of one folder a class; may "
            "be given several times.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")] = Path("results"),
    split: Annotated[str, typer.Option(help="Which split to score.")] = "test",
    text_field: TextFieldOption = None,
    images: ImagesOption = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", "-c", help=f"{CLASSES_HELP} By default classes.json of the folder, or ImageNet's."),
    ] = None,
    templates: TemplatesOption = "all",
    class_depth: Annotated[
        int | None, typer.Option(min=1, help="Classes that the second stage ranks; by default it is left out.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Candidates of the first stage that the second one ranks.")] = 128,
    captions: CaptionsFlag = False,
    generate: GenerateFlag = False,
    steps: StepsOption = 20,
    guidance: GuidanceOption = 3.0,
    best_of: BestOfOption = 1,
    judge: JudgeOption = None,
    features: FeaturesOption = None,
    limit: LimitOption = None,
    context_length: Annotated[
        int | None, typer.Option(min=3, help="Longest text in tokens; by default what each model was made for.")
    ] = None,
    setting: Annotated[Setting, typer.Option(help="Whether the models have been trained on these sets.")] = "unstated",
    precision: PrecisionOption = "fp32",
    cascade: CascadeOption = None,
    convention: ConventionOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals, and of painted pictures.")] = 0,
    devices: Annotated[
        str | None, typer.Option(help="Such as cuda:0,cuda:1 or cpu,cpu: a process of each shares the measurements.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure any models on any sets of retrieval, matching, classification, captioning and generation, one result file
    each; running it again does only what is missing.

    Example: ccmb benchmark --model runs/flickr8k --data flickr8k-cn=flickr8k-cn/captions.jsonl --text-field captions

    Example: ccmb benchmark --model runs/flickr8k --data icm=downloads/ICM --data imagenet=imagenet --split val

    Example: ccmb benchmark --model runs/captions --data aic-icc=downloads/aic-icc --split val --captions

    Example: ccmb benchmark --model runs/pictures --data ecommerce-t2i=downloads/t2i --split val --best-of 4
    """
    from ccmb.benchmark.evaluation.sets import open_set
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.models.open_model import is_exported, may_rank
    from ccmb.benchmark.runner import run_benchmark
    from ccmb.core.signals import orderly_end
    from ccmb.inference.stages import RankOptions
    from ccmb.tasks.generation.predict import Painting

    ranking = RankOptions(precision, cascade)
    settings = Settings(
        depth, context_length, setting, seed, class_depth=class_depth, ranking=ranking,
        painting=Painting(steps, guidance, best_of, seed), judge=judge, features=features, pictures=limit,
        convention=convention or "equal_texts",
    )  # fmt: skip
    with orderly_end():
        how = (split, text_field or ["texts"], images, classes, templates, captions, generate)
        sets = [open_set(spec, *how) for spec in data]
        _refuse_unread(context, sets, data)
        need_second_stage(context, any(map(may_rank, model)), ", ".join(model), *SECOND_STAGE)
        if precision == "fp32" and any(map(is_exported, model)):
            refuse_given(context, "of networks in torch; an export keeps the one that it was made with", "precision")
        outcome = run_benchmark(model, sets, out, settings, devices.split(",") if devices else ())
    values = {name: list(map(str, getattr(outcome, name))) for name in ("measured", "skipped", "failed")}
    lines = [f"{path}: {word}" for word in ("measured", "skipped") for path in values[word]]
    print_result(values, as_json, "\n".join(lines))
    for line in outcome.failed:
        typer.echo(f"ccmb: {line}", err=True)
    if outcome.failed:
        raise typer.Exit(1)


def _refuse_unread(context: typer.Context, sets: list[MeasuredSet], data: list[str]) -> None:
    """Refuse options that none of the sets reads, and a split that a folder of classes has not.

    Raises:
        UsageError: one was given; the message names it.
    """
    from ccmb.benchmark.evaluation.classification_sets import ClassSet
    from ccmb.benchmark.evaluation.sets import family_of

    families = list(dict.fromkeys(map(family_of, sets)))
    read = {name for family in families for name in READS[family]}
    refuse_unread(context, " and ".join(families), READS | {" and ".join(families): tuple(read)})
    refuse_unread_set(context, *data)
    if flags := given(context, "split"):
        for spec, of in zip(data, sets, strict=True):
            if isinstance(of, ClassSet) and of.split == "all":
                raise UsageError(f"{flags[0]} {context.params['split']}: {spec} has no such folder; leave it out")
    if "classification" in families and all(of.class_list == "its own" for of in sets if isinstance(of, ClassSet)):
        refuse_given(context, "of folders without a list of their own", "templates")


def refuse_unread_set(context: typer.Context, *data: str) -> None:
    """Refuse text fields where all sets are published ones, which have fields of their own."""
    if all(Path(spec.rpartition("=")[2]).is_dir() for spec in data):
        refuse_given(context, "of own pairs, and does nothing with published sets", "text_field")


def leaderboard(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Folders of `ccmb benchmark`; by default results, if it is there.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the table goes.")] = Path("leaderboard"),
    as_json: JsonFlag = False,
) -> None:
    """Merge results and published rows into a table: Markdown, CSV, and a page that sorts and filters.

    Example: ccmb leaderboard results --out leaderboard
    """
    from ccmb.benchmark.leaderboard.html import render_leaderboard
    from ccmb.benchmark.leaderboard.markdown import as_csv, markdown
    from ccmb.benchmark.leaderboard.rows import leaderboard as make_leaderboard
    from ccmb.benchmark.leaderboard.rows import read_results
    from ccmb.core.files import atomic_write

    usual = [Path("results")] if Path("results").is_dir() else []
    rows = make_leaderboard(read_results(results or usual))
    forms = {"md": markdown(rows), "csv": as_csv(rows), "html": render_leaderboard(rows)}
    for form, text in forms.items():
        with atomic_write(out / f"leaderboard.{form}") as file:
            file.write(text)
    files = {form: str(out / f"leaderboard.{form}") for form in forms}
    counts = {origin: sum(row.origin == origin for row in rows) for origin in ("ours", "published")}
    text = f"{counts['ours']} rows measured here, {counts['published']} published: {', '.join(files.values())}"
    print_result({"rows": counts, "files": files}, as_json, text)
