"""Networks by name: the paper's two sizes with and without cross encoders, and a tiny one for CPUs and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ccmb.core.errors import UsageError, did_you_mean
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model


def _vision(width: int, layers: int, heads: int, patch: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 224,
        "patch_size": patch,
    }


def _text(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "vocab_size": 21128,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "pad_token_id": 0,
    }


_BASE = {"vision_config": _vision(768, 12, 12, 16), "text_config": _text(768, 12, 12)}  # ViT-B/16
_LARGE = {"vision_config": _vision(1024, 24, 16, 14), "text_config": _text(768, 12, 12)}  # ViT-L/14
_TINY = {"vision_config": _vision(192, 12, 3, 16), "text_config": _text(256, 4, 4), "embed_dim": 256}  # ViT-Ti/16

PRESETS: dict[str, dict[str, Any]] = {
    "r2d2-base": _BASE,
    "r2d2-large": _LARGE,
    "prd2-base": _BASE | {"cross_layers": 0},
    "prd2-large": _LARGE | {"cross_layers": 0},
    "r2d2-tiny": _TINY | {"cross_layers": 2},
}


def preset(name: str, **changes: Any) -> R2D2Config:
    """The configuration of a preset; `changes` are further arguments of R2D2Config.

    Raises:
        UsageError: there is no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise UsageError(f"{name}: no such preset{did_you_mean(name, list(PRESETS))}; presets: {', '.join(PRESETS)}")
    return R2D2Config(**(PRESETS[name] | changes))


@dataclass(frozen=True, slots=True)
class Cost:
    """Size and work of a network.

    Attributes:
        parameters: of the whole network without the masked-language head, which only training uses.
        image, text, pair: floating-point operations (two per multiply-add) to encode an image, to encode a text of
            the greatest length, and to rank one encoded pair; `pair` is None without cross encoders.
    """

    parameters: int
    image: int
    text: int
    pair: int | None


def cost(config: R2D2Config) -> Cost:
    """Count a network's parameters and operations, without allocating its weights."""
    with torch.device("meta"):
        model = R2D2Model(config).eval()
        image = torch.empty(1, 3, config.image_size, config.image_size)
        text = torch.empty(1, config.max_text_tokens, dtype=torch.long)
        one = torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as of_image:
        images = model.encode_image(image)
    with torch.no_grad(), FlopCounterMode(display=False) as of_text:
        texts = model.encode_text(text)
    with torch.no_grad(), FlopCounterMode(display=False) as of_pair:
        if model.can_rank:
            model.rank(images, texts, one, one)
    parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("mlm_head."))
    return Cost(
        parameters,
        of_image.get_total_flops(),
        of_text.get_total_flops(),
        of_pair.get_total_flops() if model.can_rank else None,
    )


def preset_table() -> str:
    """All presets as a Markdown table; operations in GFLOPs."""
    lines = [
        "| preset | parameters | GFLOPs an image | a text of 64 tokens | a ranked pair |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in PRESETS:
        size = cost(preset(name))
        pair = "-" if size.pair is None else f"{size.pair / 1e9:.2f}"
        lines.append(
            f"| {name} | {size.parameters / 1e6:.1f} M | {size.image / 1e9:.2f} | {size.text / 1e9:.2f} | {pair} |"
        )
    return "\n".join(lines)
