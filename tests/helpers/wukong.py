"""Small checkpoints in Wukong's form, of transformers' CLIP with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf
from torch import Tensor

from tests.helpers.official_states import WORDS

WIDTH, TEXT_WIDTH, REDUCED = 128, 64, 3
KINDS = {"global": 64, "token_wise": 32, "reduced": 32}  # joint widths; a global one's is the text tower's
LAYER = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
         "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip


def clip(kind: str) -> hf.CLIPModel:
    """The same network in transformers, but for what reduces tokens."""
    shared = {"num_hidden_layers": 2, "hidden_act": "quick_gelu"}
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 2, "image_size": 32,
              "patch_size": 8}  # fmt: skip
    text = {"hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "num_attention_heads": 1,
            "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": WORDS.index("[SEP]")}  # fmt: skip
    torch.manual_seed(0)
    config = hf.CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=KINDS[kind])
    return hf.CLIPModel(config).eval()


def wukong_state(kind: str) -> dict[str, Tensor]:
    """The tensors of `clip(kind)` under Wukong's names."""
    state, dim = clip(kind).state_dict(), KINDS[kind]
    named = {
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "transformer.token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "transformer.positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "transformer.text_projection": state["text_projection.weight"].T,
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm",
             "transformer.ln_final": "text_model.final_layer_norm"}  # fmt: skip
    for name, own in norms.items():
        named |= {f"{name}.{part}": state[f"{own}.{part}"] for part in ("weight", "bias")}
    for tower, stack in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        for layer in range(2):
            before, after = f"{tower}.encoder.layers.{layer}", f"{stack}.resblocks.{layer}"
            for part in ("weight", "bias"):
                joined = [state[f"{before}.self_attn.{name}_proj.{part}"] for name in "qkv"]
                named[f"{after}.attn.in_proj_{part}"] = torch.cat(joined)
                named |= {f"{after}.{name}.{part}": state[f"{before}.{own}.{part}"] for own, name in LAYER.items()}
    if kind == "reduced":
        prefix, generator = "visual.token_learner", torch.Generator().manual_seed(1)
        shapes = {"norm.weight": (dim,), "norm.bias": (dim,), "feat_conv.weight": (dim, dim // 8, 1, 1),
                  "attention_maps.0.weight": (dim, dim // 8, 1, 1),
                  "attention_maps.1.weight": (REDUCED, dim, 1, 1)}  # fmt: skip
        named |= {f"{prefix}.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: tensor.clone() for name, tensor in named.items()}


def save_wukong(folder: Path, kind: str) -> str:
    """A checkpoint with its vocabulary; what `--model` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    state = wukong_state(kind) | {"loss.logit_scale": torch.tensor(4.6)}
    torch.save({"state_dict": state}, folder / "wukong.ckpt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return f"wukong:{folder / 'wukong.ckpt'}?tokenizer={folder / 'vocab.txt'}"
