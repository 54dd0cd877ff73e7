"""`ccmb VERB`: the command line. Heavy libraries load inside the verbs, so that `ccmb --help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

# Idle OpenMP threads that spin take the core from whoever works; this must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from ccmb.cli_benchmark import benchmark, leaderboard
from ccmb.cli_caption import caption
from ccmb.cli_corpus import corpus_app
from ccmb.cli_data import data_app
from ccmb.cli_evaluate import evaluate, folder_for_pairs
from ccmb.cli_export import export
from ccmb.cli_finetune import finetune, mix
from ccmb.cli_generate import generate
from ccmb.cli_output import ImagesOption, JsonFlag, ModelOption, TextFieldOption
from ccmb.cli_output import print_result as _result
from ccmb.cli_output import say_unreadable as _say_unreadable
from ccmb.cli_pictures import classify, match
from ccmb.cli_runs import doctor, presets, runs
from ccmb.cli_search import index, search
from ccmb.cli_serve import serve
from ccmb.errors import CcmbError, Stopped, UsageError
from ccmb.signals import orderly_end
from ccmb.tables import calibration_table, retrieval_table
from ccmb.terminal import guarded, visible_line

app = typer.Typer(
    name="ccmb",
    help="Chinese image-text work in one package: pre-train R2D2, measure it, search with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app)
app.add_typer(corpus_app)

app.command()(finetune)
app.command()(mix)
app.command()(doctor)
app.command()(runs)
app.command()(presets)
app.command()(match)
app.command()(classify)
app.command()(caption)
app.command()(export)
app.command()(generate)
app.command()(evaluate)
app.command()(benchmark)
app.command()(leaderboard)
app.command()(index)
app.command()(search)
app.command()(serve)

DataOption = Annotated[Path, typer.Option("--data", "-d", help="A pairs.jsonl file.")]


@app.command()
def quickstart(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("quickstart"),
    full: Annotated[
        bool, typer.Option("--full", help="For an hour or two: what ranking is for, captions and painted pictures.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Everything once, offline: draw a corpus, pre-train, evaluate, index, search, report.

    Running the same command again continues where it stopped.

    Example: ccmb quickstart --out quickstart objectives.fgd=off
    """
    from ccmb.quickstart import closing_words, run_quickstart

    with orderly_end():
        report = run_quickstart(out, full=full, overrides=overrides or [])
    _result(report, as_json, f"{retrieval_table(report['retrieval'])}\n\n{closing_words(out, report)}")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/RECIPE.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pre-train R2D2 from a recipe; the same command continues a stopped run.

    Example: CCMB_DATA=~/data ccmb pretrain flickr8k-cn training.steps=2000 --out runs/flickr8k
    """
    from ccmb.tasks.batches import unreadable_pictures
    from ccmb.tasks.pretraining import PretrainRecipe, pretrain
    from ccmb.training.recipe import find_recipe, load_recipe

    path = find_recipe(recipe)
    typed = load_recipe(PretrainRecipe, path, overrides or [])
    run = out or Path("runs") / path.stem
    with orderly_end():
        model = pretrain(typed, run)
    objectives = {"on": typed.objectives.on(), "off": typed.objectives.off()}
    unreadable = unreadable_pictures(run)
    _say_unreadable(unreadable)
    values = {"run": str(run), "model": str(model), "objectives": objectives, "unreadable": unreadable}
    _result(values, as_json, f"model: {model}")


@app.command()
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
    from ccmb.cli_given import refuse_given

    if image_size or max_text_tokens:
        return _convert_sizes(context, source, out)
    from ccmb.r2d2.official import TOKENIZER, convert_from_official, convert_to_official

    if Path(source).is_file():
        model, found = convert_from_official(source, out, tokenizer or TOKENIZER, key)
        unused = sorted(model.official_unused)  # type: ignore[arg-type]
        if found.place:
            typer.echo(f"{source}: the weights at {found.place}", err=True)
        if found.others:
            typer.echo(f"{source}: others at {', '.join(found.others)}; --key takes one of them", err=True)
        if found.left_out:
            typer.echo(f"{source}: {found.left_out} tensors that are no weights of the network were left out", err=True)
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
    from ccmb.cli_given import refuse_given
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


@app.command()
def calibrate(
    model: ModelOption,
    data: DataOption,
    images: ImagesOption = None,
    split: Annotated[str, typer.Option(help="Which split to fit on.")] = "val",
    text_field: TextFieldOption = None,
    depth: Annotated[int, typer.Option(min=1, help="Candidates that a non-match is drawn from.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")] = None,
) -> None:
    """Make the match score a probability: fit a temperature on own pairs and keep it in the model's config.json.

    Each text is set against its own picture and one that the first stage takes for likely: one match to one non-match.

    Example: ccmb calibrate --model runs/flickr8k --data flickr8k-cn/captions.jsonl --text-field captions
    """
    from ccmb.files import write_json
    from ccmb.r2d2.loading import model_folder
    from ccmb.r2d2.network import load_network
    from ccmb.tasks.calibration import calibrate as run_calibration
    from ccmb.tasks.calibration import store_match_temperature

    pictures, folder = images or folder_for_pairs(data), model_folder(model)
    network, processor = load_network(folder)
    report = run_calibration(network, processor, data, pictures, split, text_field or ["texts"], depth)
    store_match_temperature(folder, report["match_temperature"])
    if json_file:
        write_json(json_file, report)
    _say_unreadable(report["unreadable"])
    typer.echo(calibration_table(report))


def main() -> None:
    """Entry point: user errors become one line and an exit code of 1 or 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "--help" in sys.argv:
        _run()  # its colours are our own
        return
    os.environ.setdefault(
        "_TYPER_FORCE_DISABLE_TERMINAL", "1"
    )  # nor does Typer colour usage errors where CI asks it to
    with guarded():
        _run()


def _run() -> None:
    try:
        app(standalone_mode=True)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") != "0":  # all processes of a run stop together, and one says so
            raise SystemExit(stopped.exit_code) from None
        _fail(stopped)
    except CcmbError as error:
        _fail(error)


def _fail(error: CcmbError) -> None:
    print(f"ccmb: {visible_line(error)}", file=sys.stderr)
    raise SystemExit(error.exit_code)


if __name__ == "__main__":
    main()
