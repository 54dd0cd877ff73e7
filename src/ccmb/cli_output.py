"""What all verbs print alike: results for people or machines, and what could not be read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def print_result(values: Any, as_json: bool, text: str) -> None:
    """The values as JSON, or the text."""
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False, indent=2))
    elif text:
        typer.echo(text)


def say_findings(text: str) -> None:
    """What was left out of a data set, on stderr."""
    if text:
        typer.echo(text, err=True)


def say_unreadable(unreadable: list[str], shown: int = 5) -> None:
    """The first of some lines about pictures, on stderr."""
    if unreadable:
        typer.echo(f"{len(unreadable)} pictures could not be read:", err=True)
        for line in unreadable[:shown]:
            typer.echo(f"  {line}", err=True)
        if len(unreadable) > shown:
            typer.echo(f"  ... and {len(unreadable) - shown} more", err=True)
