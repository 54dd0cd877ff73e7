"""The verbs of the benchmark: `ccmb benchmark` measures, `ccmb leaderboard` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ccmb.benchmark.registry import BENCHMARKS
from ccmb.cli.common.options import JsonFlag, print_result
from ccmb.cli.common.signature import takes
from ccmb.core.choices import Setting
from ccmb.core.options import flags_of, refuse_unread
from ccmb.tasks.options import PairOptions

if TYPE_CHECKING:
    from ccmb.benchmark.evaluation.measurement import MeasuredSet
    from ccmb.benchmark.runner import Outcome

OF_SETS = ("split", "images", "classes", "templates", "captions", "generate")  # as `open_set` takes them


@takes(*(family.options for family in BENCHMARKS.values()))
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
    *,
    context_length: Annotated[
        int | None, typer.Option(min=3, help="Longest text in tokens; by default what each model was made for.")
    ] = None,
    setting: Annotated[Setting, typer.Option(help="Whether the models have been trained on these sets.")] = "unstated",
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals, and of painted images.")] = 0,
    devices: Annotated[
        str | None, typer.Option(help="Such as cuda:0,cuda:1 or cpu,cpu: a process of each shares the measurements.")
    ] = None,
    export: Annotated[
        Literal["mteb"] | None, typer.Option(help="Also write results of retrieval as mteb's files, into OUT/mteb.")
    ] = None,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Measure any models on any sets of retrieval, matching, classification, captioning and generation, one result file
    each; running it again does only what is missing.

    Example: ccmb benchmark --model runs/flickr8k --data flickr8k-cn=flickr8k-cn/captions.jsonl --text-field captions

    Example: ccmb benchmark --model runs/flickr8k --data icm=downloads/ICM --data imagenet=imagenet --split val

    Example: ccmb benchmark --model runs/captions --data aic-icc=downloads/aic-icc --split val --captions

    Example: ccmb benchmark --model runs/pictures --data ecommerce-t2i=downloads/t2i --split val --best-of 4
    """
    from ccmb.benchmark.evaluation.settings import Settings
    from ccmb.benchmark.runner import run_benchmark
    from ccmb.core.signals import orderly_end

    settings = Settings(context_length=context_length, setting=setting, seed=seed)
    for family in BENCHMARKS.values():
        settings = family.settle(settings, family.options.read(given))
    with orderly_end():
        sets = _open_sets(model, data, given)
        outcome = run_benchmark(model, sets, out, settings, devices.split(",") if devices else ())
    if export:
        _export(outcome, out / export)
    _say(outcome, as_json)


def _export(outcome: Outcome, out: Path) -> None:
    """Write the results of retrieval as mteb's."""
    from ccmb.benchmark.results.result import read_result
    from ccmb.integrations.mteb_export import export_result

    results = [read_result(path) for path in (*outcome.measured, *outcome.skipped)]
    for result in results:
        if result.retrieval is not None:
            for path in export_result(result, out):
                typer.echo(f"{path}: exported", err=True)


def _say(outcome: Outcome, as_json: bool) -> None:
    """Print what became of the measurements, and end with exit code 1 where one failed."""
    from ccmb.benchmark.leaderboard.terminal import print_results
    from ccmb.benchmark.results.result import read_result

    values = {name: list(map(str, getattr(outcome, name))) for name in ("measured", "skipped", "failed")}
    lines = [f"{path}: {word}" for word in ("measured", "skipped") for path in values[word]]
    print_result(values, as_json, "\n".join(lines))
    if not as_json:
        print_results(read_result(path) for path in (*outcome.measured, *outcome.skipped))
    for line in outcome.failed:
        typer.echo(f"ccmb: {line}", err=True)
    if outcome.failed:
        raise typer.Exit(1)


def _open_sets(models: Sequence[str], data: Sequence[str], given: Mapping[str, Any]) -> list[MeasuredSet]:
    """Open all sets, and refuse options that none of them, or none of the models, reads.

    Raises:
        UsageError: one was given; the message names it.
    """
    from ccmb.benchmark.evaluation.sets import open_measured_set
    from ccmb.data.languages import parse_languages

    how = {name: given[name] for name in OF_SETS if name in given}
    fields = PairOptions.read(given).fields
    languages = [None] if not given.get("languages") else list(parse_languages(given["languages"]).items())
    if languages != [None]:
        PairOptions.read(given).refuse("of one field of texts; --languages names fields", "text_field")
        data = [spec for spec in data for _ in languages]
    asked = zip(data, languages * (len(data) // len(languages)), strict=True)
    sets = [open_measured_set(spec, fields=fields, language=language, **how) for spec, language in asked]
    names = list(dict.fromkeys(opened.family for opened in sets))
    options = {name: family.options for name, family in BENCHMARKS.items()}
    reads = {name: {*one.table()} for name, one in options.items()}
    mode = " and ".join(names)
    reads |= {mode: {option for name in names for option in reads[name]}}
    refuse_unread(flags_of(given, options.values()), mode, reads)
    PairOptions.read(given).refuse_fields_of_published(*data)
    for name in names:
        of_family = {spec: opened for spec, opened in zip(data, sets, strict=True) if opened.family == name}
        BENCHMARKS[name].check(options[name].read(given), of_family, models)
    return sets


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
    from ccmb.benchmark.leaderboard.terminal import print_results
    from ccmb.core.files import atomic_write

    usual = [Path("results")] if Path("results").is_dir() else []
    measured = read_results(results or usual)
    rows = make_leaderboard(measured)
    forms = {"md": markdown(rows), "csv": as_csv(rows), "html": render_leaderboard(rows)}
    for form, text in forms.items():
        with atomic_write(out / f"leaderboard.{form}") as file:
            file.write(text)
    files = {form: str(out / f"leaderboard.{form}") for form in forms}
    counts = {origin: sum(row.origin == origin for row in rows) for origin in ("ours", "published")}
    text = f"{counts['ours']} rows measured here, {counts['published']} published: {', '.join(files.values())}"
    if not as_json:
        print_results(measured)
    print_result({"rows": counts, "files": files}, as_json, text)
