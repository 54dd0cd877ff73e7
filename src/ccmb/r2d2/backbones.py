"""A tower's backbone: how it is built, and the mask that its attention takes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

READY_MASK_TOWERS = ("bert", "roberta", "xlm-roberta", "ernie")


def tower_class(config: PreTrainedConfig, pooler: bool) -> tuple[Any, dict[str, bool]]:
    """A backbone's class and its options; where it is built with or without a pooling layer, `pooler` says which."""
    kind: Any = MODEL_MAPPING[type(config)]
    optional = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return kind, {"add_pooling_layer": pooler} if optional else {}


def new_tower(config: PreTrainedConfig, pooler: bool) -> PreTrainedModel:
    """A backbone of random weights, see `tower_class`."""
    kind, options = tower_class(config, pooler)
    return kind._from_config(config, **options)


def takes_ready_mask(tower: PreTrainedModel) -> bool:
    return tower.config.model_type in READY_MASK_TOWERS and tower.config._attn_implementation == "sdpa"


def ready_mask(mask_BT: Tensor) -> Tensor:
    """What a text tower's attention makes of a mask, (B, 1, 1, T).

    Of one that is not ready transformers asks whether all tokens are real, and so waits for the GPU.
    """
    return mask_BT.bool()[:, None, None, :]
