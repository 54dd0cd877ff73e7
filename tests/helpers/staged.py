"""A tiny pre-training in two stages, of which the second changes what stages are for."""

from __future__ import annotations

from pathlib import Path

import yaml

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.runs import tiny_recipe

STEPS = 3  # of each stage
STAGES = [
    {
        "name": "towers",
        "model": {"image_size": 32, "freeze": {"image": "all"}},
        "objectives": {"fgr": False, "mlm": False},
        "training": {"steps": STEPS},
    },
    {
        "name": "heads",
        "model": {"image_size": 48},
        "optimizer": {"lr": 0.0003},
        "training": {"steps": STEPS, "batch_size": 6},
    },
]


def staged_words(corpus: Path, *overrides: str) -> list[str]:
    """Arguments of `ccmb pretrain`: the tiny recipe, two stages, and further changes."""
    name, *tiny = tiny_recipe(corpus)
    tiny = [word.replace("image_size: 32, ", "") for word in tiny if not word.startswith("training.steps=")]
    stages = yaml.safe_dump(STAGES, default_flow_style=True, width=10_000).strip()
    return [name, *tiny, "training.steps=", "training.epochs=", "objectives.fgr.start_at=0",
            "objectives.mlm.start_at=0", f"stages={stages}", *overrides]  # fmt: skip


def staged_recipe(corpus: Path, *overrides: str) -> PretrainRecipe:
    """The same as a recipe."""
    name, *words = staged_words(corpus, *overrides)
    return load_recipe(PretrainRecipe, find_recipe(name), words)
