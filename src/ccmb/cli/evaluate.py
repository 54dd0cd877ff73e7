"""`ccmb evaluate`: one model on one set, of whichever family of tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.options import ModelOption, say_unreadable
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
