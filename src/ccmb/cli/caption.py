"""`ccmb caption`: what images show, in Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.options import JsonFlag, print_result, say_unreadable
from ccmb.cli.common.signature import takes
from ccmb.core.json_values import json_values
from ccmb.core.options import Flag
from ccmb.core.terminal import visible_line
from ccmb.tasks.captioning.family import DecodingOptions


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(DecodingOptions):
    """Options of decoding and of choosing captions."""

    match_weight: Annotated[
        float | None,
        Flag("How much R2D2's judgement counts beside the log-probability; by default as measured best."),
    ] = None
    temperature: Annotated[float, Flag("Of sampling: below 1 the likely becomes likelier.")] = 1.0
    top_p: Annotated[float, Flag("Of sampling: draw from the likeliest of this probability.")] = 0.9
    seed: Annotated[int, Flag("Of sampling.", min=0)] = 0


@takes(CaptionOptions)
def caption(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A run or model folder of `ccmb finetune captioning`.")],
    *,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Write a Chinese caption of each of some images.

    Example: ccmb caption cat.jpg dog.jpg --model runs/captions

    Example: ccmb caption cat.jpg --model runs/captions --decode sample --candidates 10 --json
    """
    from ccmb.r2d2.generative.captioner import load_captioner
    from ccmb.tasks.captioning.predict import caption_images

    options = CaptionOptions.read(given)
    options.refuse_undecoded()
    if not options.rerank:
        options.refuse("of re-ranking, which --no-rerank leaves out", "match_weight")
    network, processor = load_captioner(model)
    decoding = options.decoding(network, temperature=options.temperature, top_p=options.top_p, seed=options.seed)
    results = caption_images(network, processor, images, decoding, options.rerank, match_weight=options.match_weight)
    say_unreadable([result.error for result in results if result.error])
    lines = [
        f"{visible_line(result.image)}  {result.text}{_judged(result.candidates[0].match_score)}"
        for result in results
        if not result.error
    ]
    values: list[dict[str, Any]] = [
        json_values(result, image="picture") | {"picture": str(result.image)} for result in results
    ]
    print_result(values, as_json, "\n".join(lines))


def _judged(match_score: float | None) -> str:
    return "" if match_score is None else f"  match score {match_score:.3f}"
