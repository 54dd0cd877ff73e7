"""`ccmb evaluate`: one model on one set, of whichever family of tasks; `ccmb transfer`: models by languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.options import ImagesOption, JsonFlag, ModelOption, print_result, say_unreadable
from ccmb.cli.common.signature import takes
from ccmb.core.options import flags_of, refuse_unread
from ccmb.tasks.registry import FAMILIES, family_of


@takes(*(family.options for family in FAMILIES.values()))
def evaluate(
    context: typer.Context,
    model: ModelOption,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="A file of pairs or of labelled pairs, a shard or a folder of shards, or icm=FOLDER or iqm=FOLDER; "
            "with --classes a folder or tar of one folder a class.",
        ),
    ],
    *,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")] = None,
    **given: Any,
) -> None:
    """Measure both stages of retrieval on own pairs, matching on labelled ones, zero-shot classification on
    folders, captions, or images painted from texts.

    Example: ccmb evaluate --model runs/flickr8k --data flickr8k-cn/captions.jsonl --split val --text-field captions

    Example: ccmb evaluate --model runs/flickr8k --data icm=downloads/ICM --split val

    Example: ccmb evaluate --model runs/flickr8k --data imagenet/val --classes imagenet

    Example: ccmb evaluate --model runs/captions --data mydata/pairs.jsonl --split val --captions

    Example: ccmb evaluate --model runs/pictures --data mydata/pairs.jsonl --split val --generate --best-of 4
    """
    from ccmb.core.files import write_json
    from ccmb.data.seen_images import seen_warning

    family = family_of(given, data)
    reads = {one.mode: one.options for one in FAMILIES.values()}
    flags = flags_of(given, reads.values())
    refuse_unread(flags, family.mode, {mode: options.table() for mode, options in reads.items()})
    report = family.run(model, data, family.options.read(given))
    if json_file:
        write_json(json_file, report.values)
    say_unreadable(report.unreadable)
    typer.echo(family.table(report.metrics))
    if line := seen_warning(report.values.get("seen")):
        typer.echo(line)
    if "minimal_pairs" in report.values:
        typer.echo(f"minimal pairs: {json.dumps(report.values['minimal_pairs'])}")


def transfer(
    models: Annotated[list[str], typer.Argument(help="Runs or other models by name, each maybe LABEL=MODEL.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="Own pairs, several files as a.jsonl+b.jsonl; or NAME=FOLDER of a set.")
    ],
    languages: Annotated[str, typer.Option(help="Languages and their fields, such as zh=captions+mt_baidu,en.")],
    translated: Annotated[
        list[str] | None,
        typer.Option(help="A baseline, such as en>zh=mt_baidu: texts of en, translated by machine. Repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("transfer"),
    split: Annotated[str, typer.Option(help="Of the data.")] = "test",
    images: ImagesOption = None,
    trained_on: Annotated[
        list[str] | None, typer.Option(help="LABEL=zh,en of a model whose run does not say it. Repeatable.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--rerank-k", "--depth", min=1, help="Candidates that second stages rank.")
    ] = None,
    ranks: Annotated[bool, typer.Option("--rank/--no-rank", help="Whether second stages rank.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Measure models in many languages: which were trained on, and how much is kept in the others; as a table, a page
    and JSON. Run it again to go on.

    Example: ccmb transfer runs/zh-only runs/multilingual --data captions.jsonl+more.jsonl --languages zh,en,ar
    """
    from ccmb.core.errors import UsageError
    from ccmb.tasks.retrieval.columns import columns
    from ccmb.tasks.transfer.run import Transfer
    from ccmb.tasks.transfer.run import transfer as measure_all
    from ccmb.tasks.transfer.table import transfer_table

    stated = dict[str, str]()
    for text in trained_on or []:
        label, equals, tags = text.partition("=")
        if not equals or not tags:
            raise UsageError(f"--trained-on {text}: write LABEL=LANGUAGES, such as clip=zh,en")
        stated[label] = tags
    if depth and not ranks:
        raise UsageError("--rerank-k is of a second stage; leave it out with --no-rank")
    wanted = Transfer(
        models=models,
        data=data,
        images=images,
        columns=columns(languages, translated or []),
        out=out,
        split=split,
        depth=depth,
        ranked=ranks,
        stated=stated,
    )
    report = measure_all(wanted)
    say_unreadable(report["unreadable"])
    pages = ", ".join(str(out / f"transfer.{form}") for form in ("json", "md", "html"))
    print_result(report, as_json, f"{transfer_table(report)}\n{pages}")
