"""What an image backbone gives: its width, whether a token sums the image up, whether it has a pooled state.

It is found out by asking the backbone, without weights: what a configuration calls its width differs from kind to kind,
the shapes of what comes out do not. A feature map's cells are the tokens.

Shapes: B images, S tokens, W width, G x G cells of a feature map.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from ccmb.core.choices import ImagePooling
from ccmb.core.errors import UsageError, one_line
from ccmb.r2d2.backbones import new_tower

USUAL_SIZE = 224  # of backbones whose configuration names none: they take any


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What comes out of an image backbone.

    Attributes:
        width: W of its states.
        class_token: whether its first token is none of the image's places but sums it up.
        pooled: whether it has a pooled state (B, W), unless another is asked for.
        is_map: whether its states are a feature map (B, W, G, G), which any size of image gives.
    """

    width: int
    class_token: bool
    pooled: bool
    is_map: bool


def as_tokens(states: Tensor) -> Tensor:
    """(B, S, W) of a backbone's last states: a feature map's cells row by row, tokens as they are."""
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def pooled_state(pooling: ImagePooling, output: Any, states_BSW: Tensor) -> Tensor:
    """(B, W) what is projected into the shared space of a backbone's output, whose tokens are `states_BSW`."""
    if pooling == "mean":
        return states_BSW.mean(1)
    if pooling == "first":
        return states_BSW[:, 0]
    pooled: Tensor = output.pooler_output
    return pooled.flatten(1) if pooled.dim() > 2 else pooled  # of some (B, W, 1, 1)


def image_side(config: PreTrainedConfig) -> int | None:
    """Side of the square images that a backbone's configuration names, in pixels; None if it names no size.

    Raises:
        UsageError: they are not square.
    """
    size: Any = getattr(config, "image_size", None)
    sides = size if isinstance(size, list | tuple) else [size]
    if len(set(sides)) != 1:
        raise UsageError(f"the image tower, {config.model_type}, is for images of {size} pixels; give a square one")
    return None if sides[0] is None else int(sides[0])


def set_image_side(config: PreTrainedConfig, side: int) -> None:
    """Name another size, in the form in which the configuration does."""
    size: Any = getattr(config, "image_size", None)
    config.image_size = type(size)([side, side]) if isinstance(size, list | tuple) else side


def image_form(config: PreTrainedConfig) -> ImageForm:
    """What a backbone of this configuration gives.

    Raises:
        UsageError: it is no image backbone, or gives nothing that can be an image tower's states; it is named.
    """
    fields = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    return _form(config.model_type, json.dumps(fields, sort_keys=True, default=str))


@cache
def _form(kind: str, fields: str) -> ImageForm:
    config = AutoConfig.for_model(kind, **json.loads(fields))
    side = image_side(config) or USUAL_SIZE
    try:
        try:
            return _seen_form(config, side, "meta")
        except UsageError:
            raise
        except Exception:  # what asks for values that tensors without memory do not have
            return _seen_form(config, side, "cpu")
    except UsageError:
        raise
    except Exception as error:  # whatever a backbone makes of a wrong configuration
        raise UsageError(f"the image tower, {kind}, does not work ({one_line(error)})") from None


def _seen_form(config: PreTrainedConfig, side: int, device: str) -> ImageForm:
    """The form by what comes out of empty images of two sizes."""
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad(), no_init_weights():
        tower = new_tower(config, pooler=None).eval()
        output = _looked_at(tower, side)
        try:
            larger = _looked_at(tower, 2 * side)
        except Exception:  # a backbone for images of its own size alone
            larger_config = type(config).from_dict(config.to_dict())
            set_image_side(larger_config, 2 * side)
            larger = _looked_at(new_tower(larger_config, pooler=None).eval(), 2 * side)
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor):
        raise UsageError(f"the image tower, {config.model_type}, gives no last_hidden_state; give another backbone")
    shape, larger_shape = tuple(states.shape), tuple(larger.last_hidden_state.shape)
    is_map = states.dim() == 4
    width = shape[1] if is_map else shape[-1]
    if states.dim() not in (3, 4) or (larger_shape[1] if is_map else larger_shape[-1]) != width:
        raise UsageError(
            f"the image tower, {config.model_type}, gives states of shape {shape}, neither a feature map (B, W, G, G) "
            "nor tokens (B, S, W); give another backbone"
        )
    pooled = getattr(output, "pooler_output", None)
    has_pooled = isinstance(pooled, Tensor) and math.prod(pooled.shape) == width
    class_token = not is_map and _tokens_beside_a_grid(shape[1], larger_shape[1]) > 0
    return ImageForm(width, class_token, has_pooled, is_map)


def _looked_at(tower: PreTrainedModel, side: int) -> Any:
    return tower(pixel_values=torch.zeros(1, 3, side, side, dtype=tower.dtype))


def _tokens_beside_a_grid(tokens: int, of_larger: int) -> int:
    """How many tokens are none of a square grid, by the counts of two sizes of image."""
    for extra in range(tokens):
        if all(_is_square(count - extra) for count in (tokens, of_larger)):
            return extra
    return 0


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
