"""`ccmb data VERB`: what prepares and checks data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli_output import JsonFlag, print_result, say_unreadable

data_app = typer.Typer(name="data", help="Prepare and check data.", no_args_is_help=True)

FieldOption = Annotated[list[str] | None, typer.Option("--field", help="Text field; may be given several times.")]


@data_app.command()
def convert(
    pairs: Annotated[Path, typer.Argument(help="A pairs.jsonl file.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the shards and their manifest.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder or tar of the pictures; by default images.tar beside the pairs.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split to write.")] = "train",
    field: FieldOption = None,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples in each shard but the last.")] = 5000,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Make larger pictures so small that their short side is this.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write own pairs as WebDataset shards; the same input gives the same bytes.

    Example: ccmb data convert pairs.jsonl shards --images pictures --field captions --image-size 256
    """
    from ccmb.data.pictures import Pictures
    from ccmb.data.shards import convert_pairs

    pictures = Pictures.open(images or pairs.parent / "images.tar")
    done = convert_pairs(pairs, pictures, out, split, field or ["texts"], samples_per_shard, image_size)
    say_unreadable(done.unreadable)
    print_result(asdict(done), as_json, f"{out}: {done.samples} samples in {done.shards} shards")


@data_app.command()
def verify(
    shards: Annotated[list[str], typer.Argument(help="Folders, tars, globs, brace ranges or URLs of shards.")],
    field: FieldOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Read shards whole and list what is wrong: damage, other checksums, samples without text or picture.

    Exits with 1 if anything is.

    Example: ccmb data verify shards --field captions
    """
    from ccmb.data.shards import verify_shards

    found = verify_shards(shards, field)
    text = f"{found.samples} samples in {found.shards} shards; {len(found.problems) or 'no'} problems"
    print_result(asdict(found), as_json, "\n".join([*found.problems, text]))
    if found.problems:
        raise typer.Exit(1)
