"""The adapters of a recipe: on which towers, and in words."""

from __future__ import annotations

from torch import nn

from ccmb.core.errors import UsageError
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.adapters import Adapters, add_adapters
from ccmb.training.model_recipe import ModelRecipe


def add_lora(model: R2D2Model, recipe: ModelRecipe) -> None:
    """Put the adapters of `model.lora` on the towers, if the recipe has any; `model.freeze` has been applied.

    Raises:
        UsageError: peft is not installed, the towers are new, or they have nothing to adapt.
    """
    lora, frozen = recipe.lora, recipe.frozen()
    if lora is None:
        return
    if not recipe.init_from and not isinstance(recipe.vision, str):
        raise UsageError(
            "model.lora: a new network has no trained weights to adapt; give model.init_from, or folders or hub ids as "
            "model.vision and model.text"
        )
    towers: dict[str, nn.Module] = {"image": model.image_tower, "text": model.text_tower}
    adapters = Adapters(lora.rank, lora.alpha, lora.dropout, lora.targets)
    for name in recipe.adapted():
        lowest = frozen.get(name, 0)
        assert lowest != "all", "the recipe sees to it"
        add_adapters(towers[name], adapters, name, lowest)


def lora_in_words(recipe: ModelRecipe) -> str:
    """The adapters of a recipe, for people; an empty string if there are none."""
    lora = recipe.lora
    if lora is None:
        return ""
    targets = lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets)
    towers = " and ".join(recipe.adapted())
    dropout = f", dropout {lora.dropout:g}" if lora.dropout else ""
    return f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}{dropout}, on {targets} of the {towers} tower, merged"
