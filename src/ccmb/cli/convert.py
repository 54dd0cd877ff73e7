"""`ccmb convert` and `ccmb calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccmb.cli.common.options import ImagesOption, ModelOption, RankerOption, TextFieldOption
from ccmb.cli.common.options import say_unreadable as _say_unreadable
from ccmb.cli.common.tables import calibration_table
from ccmb.core.errors import UsageError
from ccmb.tasks.retrieval.family import folder_for_pairs

DataOption = Annotated[Path, typer.Option("--data", "-d", help="A pairs.jsonl file.")]


def convert(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="An official checkpoint file; or a run folder, model folder or hub id.")
    ],
    out: Annotated[Path, typer.Argument(help="A new model folder; or a .safetensors file with official names.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="BERT's vocab.txt, a folder or a hub id; by default the official one from the hub."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=3, help="Write a model for images of so many pixels, by interpolated positions.")
    ] = None,
    max_text_tokens: Annotated[
        int | None, typer.Option(min=3, help="Write a model for texts of so many tokens, likewise.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Which weights of a checkpoint with several, such as model_ema; by default those that were trained."
        ),
    ] = None,
) -> None:
    """Turn an official R2D2 or PRD2 checkpoint into a model folder, or a model into official form or another size.

    What trainers wrap around weights (model, state_dict, module., averages) is taken off, and said.

    Example: ccmb convert r2d2_pretrain_250m.pth models/r2d2-large --tokenizer vocab.txt

    Example: ccmb convert models/r2d2-large models/r2d2-large-336 --image-size 336
    """
    from ccmb.cli.common.given import refuse_given

    if image_size or max_text_tokens:
        return _convert_sizes(context, source, out)
    from ccmb.r2d2.official import TOKENIZER, convert_from_official, convert_to_official

    if Path(source).is_file():
        model, origin = convert_from_official(source, out, tokenizer or TOKENIZER, key)
        unused = sorted(model.official_unused)  # type: ignore[arg-type]
        if origin.where:
            typer.echo(f"{source}: the weights at {origin.where}", err=True)
        if origin.others:
            typer.echo(f"{source}: others at {', '.join(origin.others)}; --key takes one of them", err=True)
        if origin.left_out:
            typer.echo(
                f"{source}: {origin.left_out} tensors that are no weights of the network were left out", err=True
            )
        typer.echo(f"{out}: {len(model.state_dict())} tensors; {len(unused)} more that the network never reads:")
        typer.echo("\n".join(f"  {name}" for name in unused))
    elif out.suffix == ".safetensors":
        refuse_given(context, "of a checkpoint that becomes a model folder", "tokenizer", "key")
        left_out = convert_to_official(source, out)
        typer.echo(f"{out}: written" + (f"; left out: {', '.join(left_out)}" if left_out else ""))
    elif Path(source).is_dir():
        raise UsageError(f"{source}: a folder; to write its model in official form, end {out} in .safetensors")
    else:
        raise UsageError(f"{source}: no such file; to write a model in official form, end {out} in .safetensors")


def _convert_sizes(context: typer.Context, source: str, out: Path) -> None:
    from ccmb.cli.common.given import refuse_given
    from ccmb.r2d2.resizing import resize_folder

    refuse_given(context, "of a checkpoint that becomes a model folder", "tokenizer", "key")
    if Path(source).is_file() or out.suffix == ".safetensors":
        sizes = "from a model folder to a new one"
        refuse_given(context, sizes, "image_size", "max_text_tokens", instead="convert without {} first")
    config = resize_folder(source, out, context.params["image_size"], context.params["max_text_tokens"])
    typer.echo(
        f"{out}: images of {config.image_size} pixels, texts of up to {config.max_text_tokens} tokens; "
        "fine-tune it at this size"
    )


def calibrate(
    model: ModelOption,
    data: DataOption,
    images: ImagesOption = None,
    split: Annotated[str, typer.Option(help="Which split to fit on.")] = "val",
    text_field: TextFieldOption = None,
    languages: Annotated[
        str | None, typer.Option(help="Languages and fields, zh=captions,en: report what each one's own would change.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Candidates that a non-match is drawn from.")] = 16,
    ranker: RankerOption = None,
    index: Annotated[
        Path | None, typer.Option("--index", "-i", help="The index beside which a --ranker's temperature is kept.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")] = None,
) -> None:
    """Make the match score a probability: fit a temperature on own pairs and keep it in the model's config.json.

    That of another second stage (--ranker cross_encoder:NAME), with an offset, is kept in an index of the model.

    Each text is set against its own image and one that the first stage takes for likely: one match to one non-match.

    Example: ccmb calibrate --model runs/flickr8k --data flickr8k-cn/captions.jsonl --text-field captions
    """
    from ccmb.core.files import write_json
    from ccmb.data.languages import parse_languages
    from ccmb.inference.models.open_model import open_model, with_ranker
    from ccmb.search.calibrations import keep_calibration, place_of_calibration
    from ccmb.tasks.matching.calibrate import calibrate as run_calibration

    image_path, opened = images or folder_for_pairs(data), open_model(model)
    if ranker is not None:
        opened = with_ranker(opened, ranker)
    place = place_of_calibration(opened, index)  # before pairs are scored in vain
    named = None if languages is None else parse_languages(languages)
    if named is not None and text_field:
        raise UsageError("--text-field is of one language; --languages names fields")
    report = run_calibration(opened, data, image_path, split, text_field or ["texts"], depth, languages=named)
    keep_calibration(opened, place, report["match_temperature"], report.get("offset", 0.0))
    if json_file:
        write_json(json_file, report)
    _say_unreadable(report["unreadable"])
    typer.echo(calibration_table(report))
