"""States of the official network, of random weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.official import to_official

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一只红色的小船停在海边"]  # no character twice


def official_model(cross_layers: int = 2) -> R2D2Model:
    """A network of official form: one head of 64 a tower, no masked-language head."""
    tower = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1}
    torch.manual_seed(cross_layers)
    config = R2D2Config(
        vision_config=tower | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16},
        text_config=tower | {"model_type": "bert", "vocab_size": len(WORDS), "pad_token_id": 0},
        embed_dim=24,
        cross_layers=cross_layers,
        mlm_head=False,
    )
    return R2D2Model(config).eval()


def official_state(cross_layers: int = 2) -> dict[str, Tensor]:
    """An official state dict whose unread tensors are random too."""
    state = to_official(official_model(cross_layers))
    return {name: torch.randn_like(tensor) if "pooler" in name else tensor for name, tensor in state.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
