"""Positions of other sizes in an existing network, interpolated as open_clip does.

Positions of the image tower are interpolated as a grid (bicubic); that of a class token is kept. Positions of texts are
interpolated along the line (linear), and only if more are needed than there are. All other weights are kept.

Shapes: P positions, G the side of a grid of patches, W tower width.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from ccmb.core.errors import UsageError
from ccmb.r2d2.backbones import max_tokens
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.towers.image_forms import image_form

# Tables that hold one vector for each patch, by their names in CLIP's and SigLIP's, ViT's and DINOv2's, and our tower.
IMAGE_TABLES = re.compile(r"(.+\.)?(position_embedding\.weight|position_embeddings|places\.weight)$")
TEXT_TABLE = "embeddings.position_embeddings.weight"
M = TypeVar("M", bound=Any)


@torch.no_grad()
def resized(model: M, image_size: int | None = None, max_text_tokens: int | None = None) -> M:
    """The network for images and texts of other sizes; the same object if nothing changes.

    Args:
        model: an R2D2Model.
        image_size: side of the square input image, in pixels, a multiple of the image tower's patches, if it has any.
        max_text_tokens: longest text, special tokens included. Fewer than before leave all weights as they are.

    Raises:
        UsageError: a size does not suit, or a tower is of a kind whose positions cannot be resized; the message says
            which.
    """
    config = _config(model.config, image_size, max_text_tokens)
    if config is None:
        return model
    if not model.resizable:
        raise UsageError(f"an {type(model).__name__} keeps its sizes; resize the R2D2 that it was made of")
    with torch.random.fork_rng():
        larger = type(model)(config)
    state, old = {}, model.state_dict()
    for name, wanted in larger.state_dict().items():
        same = old[name].shape == wanted.shape
        state[name] = old[name] if same else _resized_table(name, old[name], wanted.shape, model.config, config)
    larger.to(device=model.device, dtype=model.dtype).load_state_dict(state)
    for parameter, old_parameter in zip(larger.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(old_parameter.requires_grad)
    if hasattr(model, "official_unused"):
        larger.official_unused = model.official_unused
    return larger.train(model.training)


def _config(before: R2D2Config, image_size: int | None, max_text_tokens: int | None) -> R2D2Config | None:
    """The configuration with the new sizes, or None if they are the old ones."""
    config = R2D2Config.from_dict(before.to_dict())
    if before._attn_implementation != "sdpa":  # the default, which towers without it make eager by themselves
        config._attn_implementation = before._attn_implementation
    for key, value in (("image_size", image_size), ("max_text_tokens", max_text_tokens)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 3):
            raise UsageError(
                f"{key} is {value!r}; give a whole number of {'pixels' if key == 'image_size' else 'tokens'}"
            )
    if image_size is not None and image_size != before.image_size:
        _check_patches(before.vision_config, image_size)
        config.image_size = image_size
        if not _has_patches(before.vision_config):
            image_form(config.vision_config)  # tries it out
    if max_text_tokens is not None and max_text_tokens != before.max_text_tokens:
        config.max_text_tokens = max_text_tokens
        position_count = max_tokens(before.text_config)
        if position_count is not None and max_text_tokens > position_count:
            config.text_config.max_position_embeddings += max_text_tokens - position_count
            if max_tokens(config.text_config) != max_text_tokens:
                raise UsageError(
                    f"the text tower, {before.text_config.model_type}, cannot take more than {position_count} tokens"
                )
    return None if config.to_dict() == before.to_dict() else config


def _has_patches(vision: PreTrainedConfig) -> bool:
    return isinstance(getattr(vision, "patch_size", None), int)


def _check_patches(vision: PreTrainedConfig, image_size: int) -> None:
    if not _has_patches(vision):  # such as convolutional networks, most of which take any size
        return
    patch = vision.patch_size
    if image_size % patch or image_size < patch:
        below = max(patch, image_size // patch * patch)
        raise UsageError(
            f"image_size is {image_size}; give a multiple of the image tower's patches of {patch} pixels, "
            f"such as {below} or {below + patch}"
        )


def _resized_table(name: str, old: Tensor, shape: torch.Size, before: R2D2Config, after: R2D2Config) -> Tensor:
    tower, _, inner = name.partition(".")
    if tower == "image_tower" and IMAGE_TABLES.match(inner) and _has_patches(before.vision_config):
        sides = (
            sized_config.image_size // int(sized_config.vision_config.patch_size) for sized_config in (before, after)
        )
        table_PW = resized_grid(old.flatten(0, -2), *sides)
        if table_PW.shape[0] == math.prod(shape[:-1]):
            return table_PW.view(shape)
    if tower == "text_tower" and inner == TEXT_TABLE:
        # RoBERTa and its kin keep the first places for padding.
        reserved = old.shape[0] - (max_tokens(before.text_config) or old.shape[0])
        return torch.cat([old[:reserved], resized_line(old[reserved:], shape[0] - reserved)])
    config: Any = before.vision_config if tower == "image_tower" else before.text_config
    key = "image_size" if tower == "image_tower" else "max_text_tokens"
    raise UsageError(
        f"{key} cannot be changed: the {tower.replace('_', ' ')}, {config.model_type}, has positions in the tensor "
        f"{inner}, which cannot be interpolated"
    )


def resized_grid(table_PW: Tensor, side: int, new_side: int) -> Tensor:
    """Positions interpolated to another grid of patches (bicubic); positions before the first patch are kept.

    Args:
        table_PW: (extra + side^2, W), row by row, such as one for a class token and one for each patch.
        new_side: G of the new grid.
    """
    extra = table_PW.shape[0] - side * side
    grid_WGG = table_PW[extra:].float().T.unflatten(1, (side, side))
    # Antialiasing changes nothing when a grid grows; when it shrinks, it lets all old positions count.
    grid_WGG = F.interpolate(
        grid_WGG[None], size=(new_side, new_side), mode="bicubic", antialias=True, align_corners=False
    )[0]
    return torch.cat([table_PW[:extra], grid_WGG.flatten(1).T.to(table_PW.dtype)])


def resized_line(table_PW: Tensor, count: int) -> Tensor:
    """(count, W) positions along the same line, linear between the old ones."""
    line_WP = F.interpolate(table_PW.float().T[None], size=count, mode="linear", align_corners=False)[0]
    return line_WP.T.to(table_PW.dtype)
