"""`ccmb data VERB`: prepare and check data."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli.common.options import JsonFlag, print_result, say_findings, say_unreadable
from ccmb.core.errors import UsageError, did_you_mean
from ccmb.core.json_values import json_values
from ccmb.scenes.scene import Split

data_app = typer.Typer(name="data", help="Prepare and check data.", no_args_is_help=True)

FieldOption = Annotated[list[str] | None, typer.Option("--field", help="Text field; may be given several times.")]


ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder or tar of the images, if they lie elsewhere than usual.")
]


@data_app.command(name="list")
def list_sets(as_json: JsonFlag = False) -> None:
    """List the downstream data sets: task, splits, metric, licence, files, and what to download by hand.

    Example: ccmb data list --json
    """
    from ccmb.datasets import CARDS
    from ccmb.datasets.listing import card_values, cards_text

    print_result([card_values(card) for card in CARDS.values()], as_json, cards_text(CARDS.values()))


@data_app.command()
def draw(
    out: Annotated[Path, typer.Argument(help="A new folder for pairs.jsonl and images.tar.")],
    train: Annotated[int, typer.Option(min=1, help="Images of the training split.")] = 20_000,
    val: Annotated[int, typer.Option(min=1, help="Images of the validation split.")] = 500,
    test: Annotated[int, typer.Option(min=1, help="Images of the test split.")] = 1000,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the images in pixels.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal images.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Make close-ups of one thing each with Chinese texts, offline, to train a small generator.

    Example: ccmb data draw things --train 20000
    """
    from ccmb.scenes.close_ups import write_close_ups

    counts: dict[Split, int] = {"train": train, "val": val, "test": test}
    write_close_ups(out, counts, size, seed)
    print_result({"folder": str(out), **counts}, as_json, f"{out}: {sum(counts.values()):,} images")


@data_app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A pairs.jsonl file, or NAME:FOLDER of a downstream data set.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the shards and their manifest.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder or tar of the images; by default images.tar beside the pairs, or as published."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which split to write.")] = "train",
    field: FieldOption = None,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples in each shard but the last.")] = 5000,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Short side in pixels to which larger images are reduced.")
    ] = None,
    keep_metadata: Annotated[
        bool, typer.Option("--keep-metadata", help="Keep EXIF (such as the place), XMP and IPTC in the images.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write custom pairs or a downstream data set as WebDataset shards; the same input gives the same bytes.

    Example: ccmb data convert pairs.jsonl shards --images images --field captions --image-size 256

    Example: ccmb data convert muge:downloads/muge shards --split val
    """
    name, _, folder = source.partition(":")
    if folder and not Path(source).exists():
        from ccmb.datasets.to_shards import convert_dataset

        if field:
            raise UsageError("--field goes with a pairs file; a data set is written with all its fields")
        done, skipped = convert_dataset(
            name,
            folder,
            out=out,
            split=split,
            images=images,
            samples_per_shard=samples_per_shard,
            size=image_size,
            keep_metadata=keep_metadata,
        )
        say_findings(skipped)
    else:
        from ccmb.data.images.source import ImageSource
        from ccmb.data.shards.write import convert_pairs

        pairs = Path(source)
        image_source = ImageSource.open(images or pairs.parent / "images.tar")
        fields = field or ["texts"]
        done = convert_pairs(
            pairs,
            image_source,
            out=out,
            split=split,
            fields=fields,
            samples_per_shard=samples_per_shard,
            size=image_size,
            keep_metadata=keep_metadata,
        )
    say_unreadable(done.unreadable)
    print_result(asdict(done), as_json, f"{out}: {done.samples} samples in {done.shards} shards")


@data_app.command()
def verify(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Folders, tars, globs, brace ranges or URLs of shards; or a downstream data set's name and its folder."
        ),
    ],
    field: FieldOption = None,
    split: Annotated[
        str | None, typer.Option(help="For a data set: only this split; by default all that exist.")
    ] = None,
    images: ImagesOption = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="For a data set: NAME=FOLDER or pairs of another one; counts the photographs that both have."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read whole shards or a whole data set and list what is wrong.

    Problems of shards: damage, wrong checksums, samples without text or image. Problems of a data set: unreadable
    lines, missing and undecodable images, empty and repeated texts, marks left in texts, other counts than
    published, and images that two splits or, with --against, two sets share. Each comes with examples and a fix.
    Exits with 1 if there is a problem.

    Example: ccmb data verify shards --field captions

    Example: ccmb data verify muge downloads/muge --split val

    Example: ccmb data verify flickr30k-cn flickr30k-cn --against flickr8k-cn=flickr8k-cn
    """
    if _names_a_set(targets):
        if len(targets) != 2 or field:
            raise UsageError(f"a data set is verified as: ccmb data verify {targets[0]} FOLDER, without --field")
        _verify_set(targets[0], targets[1], split=split, images=images, against=against or [], as_json=as_json)
        return
    if split or images or against:
        raise UsageError(
            "--split, --images and --against go with a data set: ccmb data verify NAME FOLDER; see ccmb data list"
        )
    from ccmb.data.shards.write import verify_shards

    check = verify_shards(targets, field)
    text = f"{check.samples} samples in {check.shards} shards; {len(check.problems) or 'no'} problems"
    if check.repeated_keys:
        text += f"; {check.repeated_keys} keys stand in several shards"
    print_result(asdict(check), as_json, "\n".join([*check.problems, text]))
    if check.problems:
        raise typer.Exit(1)


def _names_a_set(targets: list[str]) -> bool:
    """Whether the first word names a data set, exactly or nearly, and no shards."""
    from ccmb.datasets import CARDS

    name = targets[0]
    folders = [Path(), Path(os.environ.get("CCMB_DATA", "")).expanduser()]
    if not re.fullmatch(r"[\w-]+", name) or any((root / name).exists() for root in folders):
        return False
    return name.lower() in CARDS or (len(targets) == 2 and bool(did_you_mean(name.lower(), list(CARDS))))


def _verify_set(
    name: str, folder: str, split: str | None, images: Path | None, against: list[str], as_json: bool
) -> None:
    from ccmb.datasets.verify import checked_text, verify_dataset

    checked = verify_dataset(name, folder, split, images, against)
    print_result(json_values(checked, images="pictures", fix="mend"), as_json, checked_text(checked))
    if checked.is_faulty:
        raise typer.Exit(1)
