"""`ccmb generate`: images of what texts describe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.options import JsonFlag, print_result
from ccmb.cli.common.signature import takes
from ccmb.core.choices import Solver
from ccmb.core.options import Flag
from ccmb.tasks.generation.family import PaintingOptions
from ccmb.tasks.options import NoiseSeedOption


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(PaintingOptions):
    """Options of sampling and of choosing images."""

    seed: NoiseSeedOption = 0
    solver: Annotated[Solver, Flag("How a flow is followed; heun takes twice as long a step.")] = "euler"


@takes(GenerateOptions)
def generate(
    context: typer.Context,
    texts: Annotated[list[str], typer.Argument(help="What the images show, in Chinese; a row of the grid each.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A run or model folder of `ccmb finetune generation`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The grid, a PNG file.")] = Path("generated.png"),
    *,
    images: Annotated[
        Path | None,
        typer.Option("--images", "--pictures", help="Also a folder for every image as a PNG file of its own."),
    ] = None,
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
    network, processor = load_generator(model)
    check_texts(processor, texts)
    if isinstance(network.process, Diffusion):
        options.refuse("of flow matching, and this model's pipeline is sampled by DDIM", "solver")
    sampling = options.sampling(options.seed, solver=options.solver)
    results = paint_texts(network, processor, texts, sampling, open_judge(options.judge, model, network, processor))
    save_grid(results, out)
    if images is not None:
        save_images(results, images)
    values: dict[str, Any] = {
        "grid": str(out),
        "painting": asdict(sampling),
        "judge": options.judge or model,
        "texts": [
            {
                "text": result.text,
                "candidates": [
                    {"number": one.number, "cosine": one.cosine, "match_score": one.match_score}
                    for one in result.candidates
                ],
            }
            for result in results
        ],
    }
    lines = [f"{result.text}  {result.candidates[0].words}" for result in results]
    print_result(values, as_json, "\n".join([*lines, f"grid: {out}"]))
