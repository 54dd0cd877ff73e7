"""Helpers that verbs share: options, results for people or machines, and lines on what could not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.core.terminal import visible_line

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A run, a model folder, a hub id, or another model by name.")
]
MinProbabilityOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least calibrated probability that counts as a match.")
]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder or tar of the images; by default images.tar or images beside the data.")
]
TextFieldOption = Annotated[list[str] | None, typer.Option(help="Text field; may be given several times.")]
RerankKOption = Annotated[
    int, typer.Option("--rerank-k", "--depth", min=1, help="Candidates that the second stage ranks.")
]
RankerOption = Annotated[
    str | None,
    typer.Option(
        help="Another second stage: cross_encoder:NAME of sentence-transformers, an R2D2 that can rank, or late:NAME, "
        "the tokens of an R2D2; late:NAME?keep=16 + OTHER makes three stages."
    ),
]
CoarseDimOption = Annotated[
    int | None,
    typer.Option(min=1, help="Scan the first so many numbers of the vectors, and order the best by all of them."),
]
FastFlag = Annotated[
    bool, typer.Option("--fast", help="Compute with the model's int8 export, which is made at its first use.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def print_result(values: Any, as_json: bool, text: str) -> None:
    """Print the values as JSON, or the text."""
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False, indent=2))
    elif text:
        typer.echo(text)


def say_findings(text: str) -> None:
    """Report on stderr what was left out of a data set."""
    if text:
        typer.echo(text, err=True)


def say_unreadable(unreadable: list[str], shown: int = 5) -> None:
    """Report the first of some lines about images on stderr."""
    if unreadable:
        typer.echo(f"{len(unreadable)} images could not be read:", err=True)
        for line in unreadable[:shown]:
            typer.echo(f"  {visible_line(line)}", err=True)
        if len(unreadable) > shown:
            typer.echo(f"  ... and {len(unreadable) - shown} more", err=True)
