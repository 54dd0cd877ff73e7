"""`ccmb generate`: images of what texts describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccmb.cli.common.given import refuse_given
from ccmb.cli.common.options import JsonFlag, print_result
from ccmb.cli.common.signature import takes
from ccmb.core.choices import Solver
from ccmb.core.errors import UsageError
from ccmb.core.options import Flag
from ccmb.tasks.generation.family import PaintingOptions
from ccmb.tasks.options import NoiseSeedOption

if TYPE_CHECKING:
    from ccmb.tasks.generation.predict import GeneratedImages


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(PaintingOptions):
    """Options of sampling and of choosing images."""

    seed: NoiseSeedOption = 0
    solver: Annotated[Solver, Flag("How a flow is followed; heun takes twice as long a step.")] = "euler"


@takes(GenerateOptions)
def generate(
    context: typer.Context,
    texts: Annotated[
        list[str] | None, typer.Argument(help="What the images show, in Chinese; a row of the grid each.")
    ] = None,
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="A run or model folder of `ccmb finetune generation`.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The grid, a PNG file; of --data the file to hand in.")
    ] = Path("generated.png"),
    images: Annotated[
        Path | None,
        typer.Option("--images", "--pictures", help="Also a folder for every image as a PNG file of its own."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Instead of texts: NAME=FOLDER of a set whose test split is handed in."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of the data.")] = "test",
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Paint what texts describe: a grid with one row a text, the best first by match score.

    Example: ccmb generate "左边有一艘红色的大帆船。" --model runs/pictures --out grid.png --seed 1 --best-of 4
    """
    from ccmb.r2d2.generative.diffusion import Diffusion
    from ccmb.r2d2.generative.generator import load_generator
    from ccmb.tasks.generation.grid import save_grid, save_images
    from ccmb.tasks.generation.predict import check_texts, open_judge, paint_texts

    options = GenerateOptions.read(given)
    if (data is None) == (not texts):
        raise UsageError("nothing to paint; give texts, or a set as --data" if not texts else "give texts or --data")
    if data is None:
        refuse_given(context, "of --data", "split")
    else:
        refuse_given(context, "of texts, and of --data one file is written", "images")
    network, processor = load_generator(model)
    if isinstance(network.process, Diffusion):
        options.refuse("of flow matching, and this model's pipeline is sampled by DDIM", "solver")
    sampling = options.sampling(options.seed, solver=options.solver)
    judge = open_judge(options.judge, model, network, processor)
    if data is not None:
        from ccmb.tasks.generation.submission import hand_in

        written = hand_in(network, processor, data, split=split, out=out, sampling=sampling, judge=judge)
        print_result(written, as_json, f"{written['texts']:,} texts: {out}")
        return
    check_texts(processor, texts or [])
    results = paint_texts(network, processor, texts or [], sampling, judge)
    save_grid(results, out)
    if images is not None:
        save_images(results, images)
    lines = [f"{result.text}  {result.candidates[0].words}" for result in results]
    values = _of_grid(results, out) | {"painting": asdict(sampling), "judge": options.judge or model}
    print_result(values, as_json, "\n".join([*lines, f"grid: {out}"]))


def _of_grid(results: Sequence[GeneratedImages], out: Path) -> dict[str, Any]:
    texts = [
        {
            "text": result.text,
            "candidates": [
                {"number": one.number, "cosine": one.cosine, "match_score": one.match_score}
                for one in result.candidates
            ],
        }
        for result in results
    ]
    return {"grid": str(out), "texts": texts}
