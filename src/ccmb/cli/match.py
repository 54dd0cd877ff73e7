"""The verbs about given images: `ccmb match` and `ccmb classify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccmb.cli.common.options import JsonFlag, MinProbabilityOption, ModelOption, print_result, say_unreadable
from ccmb.core.json_values import json_values
from ccmb.core.terminal import visible_line
from ccmb.tasks.classification.family import CLASSES_HELP, TEMPLATES_HELP

if TYPE_CHECKING:
    from ccmb.inference.models.base import Model


def match(
    text: Annotated[str, typer.Argument(help="What the images may show, in Chinese.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: ModelOption,
    min_probability: MinProbabilityOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say how well a text describes each of some images.

    Example: ccmb match "乔丹投篮" jordan.jpg --model runs/flickr8k --min-probability 0.5
    """
    from ccmb.core.validation import check_min_probability, check_text
    from ccmb.inference.models.open_model import open_model
    from ccmb.tasks.matching.predict import match_images

    check_text(text, "to match")  # before the model is loaded in vain
    check_min_probability(min_probability)
    opened = open_model(model)
    say_unknown(opened, [text])
    results = match_images(opened, text, images, min_probability)
    say_unreadable([result.error for result in results if result.error])
    if not opened.can_rank:
        typer.echo(f"{model}: no second stage, so the cosine is all there is", err=True)
    elif not (opened.is_calibrated or as_json):
        typer.echo(f"{model}: not calibrated, so the match score is no probability: run ccmb calibrate", err=True)
    lines = [
        f"{visible_line(result.image)}  cosine {result.cosine:.3f}"
        + ("" if result.score is None else f"  match score {result.score:.3f}")
        + ("" if result.probability is None else f"  probability {result.probability:.3f}")
        + ("" if result.match is None else "  match" if result.match else "  no match")
        for result in results
        if not result.error
    ]
    print_result(
        [json_values(result, image="picture") | {"picture": str(result.image)} for result in results],
        as_json,
        "\n".join(lines),
    )


def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: ModelOption,
    classes: Annotated[str, typer.Option("--classes", "-c", help=CLASSES_HELP)],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    templates: Annotated[str, typer.Option(help=TEMPLATES_HELP)] = "all",
    depth: Annotated[
        int | None,
        typer.Option("--rerank-k", "--depth", min=1, help="Let the second stage rank so many of the best classes."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which of some classes each of some images belongs to; the classes' Chinese names are all it takes.

    Example: ccmb classify cat.jpg dog.jpg --model runs/flickr8k --classes 猫,狗,汽车 --top 1
    """
    from ccmb.data.class_names import SHIPPED, read_classes
    from ccmb.inference.models.open_model import open_model
    from ccmb.tasks.classification.prompts import read_templates
    from ccmb.tasks.classification.rerank import classify as run_classify

    known, prompts = read_classes(classes), read_templates(templates)  # before the model is loaded in vain
    opened = open_model(model)
    if classes not in SHIPPED:
        say_unknown(opened, [label.name for label in known])
    results = run_classify(opened, images, known, prompts, top, depth)
    say_unreadable([result.error for result in results if result.error])
    lines = [
        "  ".join(
            [
                visible_line(result.image),
                *(f"{guess.name} {_metric(guess.score, guess.cosine)}" for guess in result.classes),
            ]
        )
        for result in results
        if not result.error
    ]
    print_result(
        [json_values(result, image="picture") | {"picture": str(result.image)} for result in results],
        as_json,
        "\n".join(lines),
    )


def say_unknown(model: Model, texts: list[str]) -> None:
    """Report on stderr the texts of which the model knows few words or none."""
    from ccmb.core.text.cleaning import clean_query

    unknown = model.unknown([clean_query(text) for text in texts])
    shown = [repr(text) for text, is_unknown in zip(texts, unknown, strict=True) if is_unknown]
    if shown:
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        typer.echo(
            f"the model knows few words or none of {', '.join(shown[:3])}{more}: what it says of that means little",
            err=True,
        )


def _metric(score: float | None, cosine: float) -> str:
    return f"{cosine:.3f}" if score is None else f"{score:.3f} (cosine {cosine:.3f})"
