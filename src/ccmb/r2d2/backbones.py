"""A tower's backbone: building it, the mask for its attention, and packed texts for BERT-like towers."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ccmb.r2d2.packing import Packing, row_attention
from ccmb.r2d2.towers.siglip_text import is_siglip_text, siglip_text_class

BERTS_KIND = ("bert", "roberta", "xlm-roberta", "ernie")
PACKED = "sdpa_or_packed"


def tower_class(config: PreTrainedConfig, pooler: bool) -> tuple[Any, dict[str, bool]]:
    """A backbone's class and its options. `pooler` decides on the pooling layer of classes that offer one."""
    if is_siglip_text(config):
        return siglip_text_class(config), {}
    kind: Any = MODEL_MAPPING[type(config)]
    optional = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return kind, {"add_pooling_layer": pooler} if optional else {}


def new_tower(config: PreTrainedConfig, pooler: bool | None) -> PreTrainedModel:
    """A backbone of random weights, see `tower_class`; with its own default of a pooling layer if `pooler` is None."""
    kind, options = tower_class(config, bool(pooler))
    if pooler is None:
        options = {}
    return kind._from_config(config, **options)


def new_text_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A text backbone of random weights. If it is BERT-like, it also reads packed texts."""
    tower = new_tower(config, pooler=False)
    if tower.config.model_type in BERTS_KIND and tower.config._attn_implementation == "sdpa":
        tower.config._attn_implementation = PACKED
    return tower


def max_tokens(config: PreTrainedConfig) -> int | None:
    """The number of tokens that a text tower of this configuration has positions for; None if there is no limit."""
    with torch.device("meta"):
        tower = new_tower(config, pooler=False)
    table = getattr(getattr(tower, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return getattr(config, "max_position_embeddings", None)
    # RoBERTa and its kin count positions from the one after padding's.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def is_packable(tower: PreTrainedModel) -> bool:
    """Whether a text tower reads packed texts."""
    return tower.config._attn_implementation == PACKED


def read_packed(tower: PreTrainedModel, input_ids_BT: Tensor, packing: Packing) -> Tensor:
    """Token states (B, T, W) of packed texts; zeros where there is only padding."""
    table = cast(nn.Embedding, tower.get_submodule("embeddings.position_embeddings"))
    # RoBERTa and its kin count positions from the one after padding's.
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    ids, position_ids = packing.pack(input_ids_BT)[None], packing.columns[None] + first
    states = tower(input_ids=ids, position_ids=position_ids, packing=packing).last_hidden_state
    return packing.pad(states[0])


def _sdpa_or_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa, or for a row of packed texts attention within each text; (B, H, T, D) to (B, T, H, D)."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, **options)
    tokens = (states[0].transpose(0, 1) for states in (query, key, value))
    return row_attention(packing, packing, dropout)(*tokens)[None], None


AttentionInterface.register(PACKED, _sdpa_or_packed)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def mask_for(tower: PreTrainedModel, mask_BT: Tensor) -> Tensor:
    """A mask (B, T) in the form that is fastest for a text tower."""
    return ready_mask(mask_BT) if mask_BT.is_cuda and is_packable(tower) else mask_BT


def ready_mask(mask_BT: Tensor) -> Tensor:
    """A mask in the form (B, 1, 1, T) that attention uses.

    For a mask (B, T), transformers first checks whether all tokens are real, and so waits for the GPU.
    """
    return mask_BT.bool()[:, None, None, :]
