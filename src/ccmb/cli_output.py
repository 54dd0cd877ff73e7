"""How verbs print what they have found."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def result(values: Any, as_json: bool, text: str) -> None:
    """Print the values as JSON, or else the text."""
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False, indent=2))
    elif text:
        typer.echo(text)
