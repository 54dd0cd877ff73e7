"""`ccmb quickstart`: draw a corpus, pre-train R2D2, evaluate both stages, index the gallery, search it, and report.

Everything goes into one folder, and every part is skipped where it is already done, so that the same command goes on
after any stop and ends in the same figures.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """How much is drawn and trained."""

    recipe: str
    train_scenes: int
    depth: int = 32


QUICK = Size("quickstart", train_scenes=20_000)
FULL = Size("quickstart-full", train_scenes=60_000)
GALLERY, VALIDATION = 1000, 500
QUERIES_SHOWN = 6


def run_quickstart(out: Path, full: bool = False, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Do everything in the folder `out` and return the report, which is also in `report.json` and `report.html`.

    Args:
        full: the longer training (at most an hour on two cores).
        overrides: `key=value` changes to the recipe.

    Raises:
        CcmbError: the folder holds a quickstart of another size or recipe.
    """
    from ccmb.tasks.pretraining import PretrainRecipe, pretrain
    from ccmb.training.recipe import find_recipe, load_recipe

    size = FULL if full else QUICK
    corpus = out / "corpus"
    recipe = load_recipe(
        PretrainRecipe, find_recipe(size.recipe), [f"data.folder={corpus}", *overrides]
    )
    clock = Clock(out / "seconds.json")
    with clock.part("draw"):
        draw_corpus(corpus, size.train_scenes, recipe.model.vision.get("image_size", 96), recipe.training.seed)
    with clock.part("train"):
        pretrain(recipe, out / "run")
    from ccmb.r2d2.loading import load_model
    from ccmb.tasks.evaluation import evaluate

    model, processor = load_model(out / "run")
    with clock.part("evaluate"):
        evaluation = evaluate(
            model, processor, corpus / "pairs.jsonl", corpus / "images.tar", "test", ["captions"], size.depth, 1
        )
    with clock.part("index"):
        index_gallery(out, corpus, evaluation.samples, model, processor)
    report: dict[str, Any] = {
        **evaluation.report,
        "objectives": [name for name in recipe.objectives.paper_names(recipe.objectives.on())],
        "objectives_off": recipe.objectives.paper_names(recipe.objectives.off()),
        "model": {"parameters": sum(p.numel() for p in model.parameters()), "steps": recipe.training.steps},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "next": next_commands(out),
    }
    with clock.part("report"):
        show(out, corpus, evaluation, model, processor, report, clock)
    _say(out, report)
    return report
