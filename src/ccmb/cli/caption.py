"""`ccmb caption`: what pictures show, in Chinese."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.given import refuse_given, refuse_unread
from ccmb.cli.common.options import JsonFlag, print_result, say_unreadable
from ccmb.core.choices import Decode
from ccmb.core.terminal import visible_line

DecodeOption = Annotated[Decode, typer.Option(help="How captions are found.")]
BeamsOption = Annotated[int, typer.Option(min=1, help="Captions that beam search follows.")]
CandidatesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Captions of each picture that re-ranking chooses from; by default 5, of greedy 1."),
]
CaptionsFlag = Annotated[bool, typer.Option("--captions", help="Measure captions of the pictures of own pairs.")]
RerankOption = Annotated[
    bool, typer.Option("--rerank/--no-rerank", help="Let R2D2's match score choose among the candidates.")
]
MaxLengthOption = Annotated[
    int | None, typer.Option(min=1, help="Longest caption in tokens; by default 40, or what the model has room for.")
]


def caption(
    context: typer.Context,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A run or model folder of `ccmb finetune captioning`.")],
    decode: DecodeOption = "beam",
    beams: BeamsOption = 5,
    candidates: CandidatesOption = None,
    rerank: RerankOption = True,
    match_weight: Annotated[
        float | None,
        typer.Option(help="How much R2D2's judgement counts beside the log-probability; by default as measured best."),
    ] = None,
    max_length: MaxLengthOption = None,
    temperature: Annotated[float, typer.Option(help="Of sampling: below 1 the likely becomes likelier.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of sampling: draw from the likeliest of this probability.")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a Chinese caption of each of some pictures.

    Example: ccmb caption cat.jpg dog.jpg --model runs/captions

    Example: ccmb caption cat.jpg --model runs/captions --decode sample --candidates 10 --json
    """
    from ccmb.r2d2.generative.captioner import load_captioner
    from ccmb.tasks.captioning.predict import caption_pictures, decoding_for

    refuse_undecoded(context, decode)
    if not rerank:
        refuse_given(context, "of re-ranking, which --no-rerank leaves out", "match_weight")
    network, processor = load_captioner(model)
    options = decoding_for(
        network, max_length, decode=decode, beams=beams, candidates=candidates_of(decode, beams, candidates, rerank),
        temperature=temperature, top_p=top_p, seed=seed,
    )  # fmt: skip
    found = caption_pictures(network, processor, pictures, options, rerank, match_weight=match_weight)
    say_unreadable([of.error for of in found if of.error])
    lines = [
        f"{visible_line(of.picture)}  {of.text}{_judged(of.candidates[0].match_score)}" for of in found if not of.error
    ]
    values: list[dict[str, Any]] = [{**asdict(of), "picture": str(of.picture)} for of in found]
    print_result(values, as_json, "\n".join(lines))


# Which options each way of decoding reads; those of none are of all.
DECODES = {
    "--decode beam": ("beams", "candidates"),
    "--decode greedy": ("candidates",),  # if it is one
    "--decode sample": ("candidates", "temperature", "top_p", "seed"),
}


def refuse_undecoded(context: typer.Context, decode: Decode) -> None:
    """Refuse options that this way of decoding does not read.

    Raises:
        UsageError: one was given; the message names it.
    """
    refuse_unread(context, f"--decode {decode}", DECODES)


def candidates_of(decode: Decode, beams: int, candidates: int | None, rerank: bool) -> int:
    """How many candidates each picture gets, if nobody says: those that there is a use for."""
    if candidates is not None:
        return candidates
    if decode == "greedy" or not rerank:
        return 1
    return beams if decode == "beam" else 5


def _judged(match_score: float | None) -> str:
    return "" if match_score is None else f"  match score {match_score:.3f}"
