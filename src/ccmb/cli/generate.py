"""`ccmb generate`: pictures of what texts describe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.given import refuse_given
from ccmb.cli.common.options import JsonFlag, print_result
from ccmb.core.choices import Solver

StepsOption = Annotated[int, typer.Option(min=1, help="From noise to a picture.")]
GuidanceOption = Annotated[
    float, typer.Option(min=0, help="How much the text counts: 1 is as trained, more is more faithful and less varied.")
]
BestOfOption = Annotated[
    int, typer.Option("--best-of", min=1, help="Pictures of each text, the one with the best match score first.")
]
SolverOption = Annotated[Solver, typer.Option(help="How a flow is followed; heun takes twice as long a step.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the noise: equal seeds paint equal pictures.")]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="Run, model folder or hub id whose features FID and KID compare: R2D2 or any model of transformers that "
        "reads pictures; by default the model itself."
    ),
]
GenerateFlag = Annotated[bool, typer.Option("--generate", help="Measure pictures painted from the texts of own pairs.")]
LimitOption = Annotated[
    int | None, typer.Option(min=2, help="Of --generate: paint the texts of the first N pictures alone.")
]
JudgeOption = Annotated[
    str | None,
    typer.Option(help="Run, model folder or hub id of the R2D2 that gives match scores; by default the model itself."),
]


def generate(
    context: typer.Context,
    texts: Annotated[list[str], typer.Argument(help="What the pictures show, in Chinese; a row of the grid each.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A run or model folder of `ccmb finetune generation`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The grid, a PNG file.")] = Path("generated.png"),
    seed: SeedOption = 0,
    steps: StepsOption = 20,
    guidance: GuidanceOption = 3.0,
    best_of: BestOfOption = 1,
    solver: SolverOption = "euler",
    judge: JudgeOption = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Also a folder for every picture as a PNG file of its own.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Paint what texts describe: a grid with one row a text, the best first by match score.

    Example: ccmb generate "左边有一艘红色的大帆船。" --model runs/pictures --out grid.png --seed 1 --best-of 4
    """
    from ccmb.r2d2.generative.diffusion import Diffusion
    from ccmb.r2d2.generative.generator import load_generator
    from ccmb.tasks.generation.grid import save_grid, save_pictures
    from ccmb.tasks.generation.predict import Painting, check_texts, open_judge, paint_texts

    network, processor = load_generator(model)
    check_texts(processor, texts)
    if isinstance(network.process, Diffusion):
        refuse_given(context, "of flow matching, and this model's pipeline is sampled by DDIM", "solver")
    options = Painting(steps, guidance, best_of, seed, solver)
    found = paint_texts(network, processor, texts, options, open_judge(judge, model, network, processor))
    save_grid(found, out)
    if pictures is not None:
        save_pictures(found, pictures)
    values: dict[str, Any] = {
        "grid": str(out),
        "painting": asdict(options),
        "judge": judge or model,
        "texts": [
            {
                "text": of.text,
                "candidates": [
                    {"number": one.number, "cosine": one.cosine, "match_score": one.match_score}
                    for one in of.candidates
                ],
            }
            for of in found
        ],
    }
    lines = [f"{of.text}  {of.candidates[0].words}" for of in found]
    print_result(values, as_json, "\n".join([*lines, f"grid: {out}"]))
