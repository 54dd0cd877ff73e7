"""Official R2D2 and PRD2 checkpoints <-> R2D2Model (names as in yuxie11/R2D2 at c7127fa).

The official network carries tensors that it never reads: BERT's pooler, and the embeddings of both cross encoders,
whose input is the towers' states. `from_official` keeps these tensors on the model as `official_unused`, so that
`to_official` returns every tensor bit for bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_path
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.checkpoint_files import read_file, read_tensors, state_dicts, tensor_names
from ccmb.r2d2.folders.weight_sources import source_of
from ccmb.r2d2.folders.weights import and_more, check_finite
from ccmb.r2d2.loading import load_model, model_folder
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import load_tokenizer

# Official prefix -> ours.
PREFIXES = {
    "visual_encoder.": "image_tower.",
    "text_encoder.": "text_tower.",
    "vision_proj.": "image_projection.",
    "text_proj.": "text_projection.",
    "img_joint_proj.": "image_to_cross.",
    "text_joint_layer.encoder.": "text_image_encoder.",
    "img_joint_layer.encoder.": "image_text_encoder.",
    "itm_head.": "text_image_match.",
    "itm_head_i.": "image_text_match.",
    "temp": "temperature",
}
UNUSED = re.compile(r"(text|img)_joint_layer\.embeddings\.|text_encoder\.pooler\.|.*\.position_ids$")
UNUSED_FILE = "official_unused.safetensors"
TOKENIZER = "hfl/chinese-roberta-wwm-ext"  # the official text tower's
MAX_TEXT_TOKENS = 64
ANCHOR = "visual_encoder.embeddings.patch_embedding.weight"  # a tensor of every official network
HEAD_WIDTH = 64  # of every attention head in all official networks


def from_official(state: Mapping[str, Tensor]) -> R2D2Model:
    """The network of an official state dict, in evaluation mode; without cross encoders if it is PRD2's.

    Its shape is read off the tensors. Tensors that no network reads are kept in `model.official_unused`.

    Raises:
        CcmbError: a tensor is missing, unknown or of another shape than the rest asks for; the message names it.
    """
    state = next(iter(state_dicts(state, ANCHOR).values()), dict(state))
    unused = {name: tensor for name, tensor in state.items() if UNUSED.match(name)}
    used = {name: tensor for name, tensor in state.items() if name not in unused}
    config = _read_config(used)
    expected = {_official_name(name): tensor.shape for name, tensor in _empty(config).state_dict().items()}
    if missing := sorted(set(expected) - set(used)):
        raise CcmbError(f"the checkpoint lacks the tensor {missing[0]}{and_more(missing)}")
    if unknown := sorted(set(used) - set(expected)):
        raise CcmbError(f"the checkpoint holds an unknown tensor {unknown[0]}{and_more(unknown)}; it is not R2D2's")
    for name, shape in expected.items():
        if used[name].shape != shape:
            raise CcmbError(f"tensor {name} is {tuple(used[name].shape)}, but the others ask for {tuple(shape)}")
    own_state = {_our_name(name): tensor for name, tensor in used.items()}
    check_finite("the checkpoint", used.items())
    dtypes = {tensor.dtype for tensor in used.values() if tensor.is_floating_point()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    model: Any = R2D2Model.from_pretrained(None, config=config, state_dict=own_state, dtype=dtype)
    model.official_unused = unused
    return model.eval()


def to_official(model: R2D2Model, unused: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The official state dict of a network with a CLIP image tower and a BERT text tower.

    The official network has no masked-language head, so ours is left out.

    Args:
        unused: the tensors that the official code holds but never reads; by default those that the model came with.
            A network of our own has none: then the cross encoders get the text tower's embeddings, the pooler zeros.

    Raises:
        CcmbError: the towers are of another kind, or only one of the cross encoders is there.
    """
    kinds = model.config.vision_config.model_type, model.config.text_config.model_type
    if kinds != ("clip_vision_model", "bert"):
        raise CcmbError(f"towers are {kinds[0]} and {kinds[1]}; the official network has clip_vision_model and bert")
    if model.config.image_pooling != "first":
        raise CcmbError("the official network projects the image tower's first token; this one its pooled output")
    if model.config.projection_hidden is not None:
        raise CcmbError("the official network has linear projections; these have a hidden layer")
    if model.likelihood is not None:
        raise CcmbError("the official network ranks by cross encoders; this one by a decoder")
    unused = unused if unused is not None else getattr(model, "official_unused", None)
    state = {
        _official_name(name): tensor.detach().cpu()
        for name, tensor in model.state_dict().items()
        if not name.startswith("mlm_head.") and (model.can_rank or not name.startswith("text_image_encoder."))
    }
    return state | (dict(unused) if unused is not None else _stand_ins(state))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights that were chosen from a checkpoint.

    Attributes:
        state: tensors by the official names.
        where: their location in the checkpoint, such as "model" or "model_ema"; "" is the top.
        others: the locations of further weights of the same network.
        left_out: the number of all other tensors, such as those of optimisers and losses.
    """

    state: dict[str, Tensor]
    where: str = ""
    others: tuple[str, ...] = ()
    left_out: int = 0


def read_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """The weights in a `.pth` file (read without running any code in it) or a safetensors file, unwrapped.

    Args:
        key: the location of the weights, if there are several; by default the trained weights, not their average.

    Raises:
        CcmbError: see `read_file`; or there are no such weights, and the message says what there is.
    """
    content = read_file(path)
    names = tensor_names(content)
    if not names:
        raise CcmbError(f"{path}: holds no named tensors")
    networks = state_dicts(content, ANCHOR)
    if not networks:
        raise CcmbError(f"{path}: lacks the tensor {ANCHOR}; it is not R2D2's or PRD2's{other_model_kind(names)}")
    if key is not None and key not in networks:
        locations = ", ".join(repr(where) for where in networks)
        raise CcmbError(f"{path}: no weights at '{key}'; there are weights at {locations}")
    where = next(iter(networks)) if key is None else key
    counted = sum(map(len, networks.values()))
    others = tuple(other for other in networks if other != where)
    return Checkpoint(networks[where], where, others, len(names) - counted)


def other_model_kind(names: Sequence[str]) -> str:
    """A description of a checkpoint that is not R2D2's, by its tensors' names, for a message; "" if unknown."""
    kinds = {
        r".*\.lora_": "an adapter (LoRA), which is no model by itself; merge it into its model first",
        r"(.*\.)?image_tower\.": "of this package; give its run or model folder, which needs no converting",
        r"(.*\.)?bert\.(encoder|embeddings)\.": "a Chinese-CLIP or BERT in another form; give its folder in "
        "transformers' form",
        r"(.*\.)?visual\.": "a CLIP of OpenAI or open_clip; `ccmb benchmark --model open_clip:ARCHITECTURE/FILE` takes "
        "it",
        r"(.*\.)?vision_model\.": "of transformers; give its whole folder to the command that takes it",
    }
    for pattern, kind in kinds.items():
        if any(re.match(pattern, name) for name in names):
            return f" but {kind}"
    return ""


def convert_from_official(
    checkpoint: str | Path, out: str | Path, tokenizer: str | Path = TOKENIZER, key: str | None = None
) -> tuple[R2D2Model, Checkpoint]:
    """Turn an official checkpoint into the model folder `out`, which must not exist yet, in the checkpoint's precision.

    Args:
        tokenizer: the text tower's: a `vocab.txt`, a folder or a hub id.
        key: the location of the weights, see `read_checkpoint`.

    Raises:
        CcmbError: see `read_checkpoint`, `from_official` and `load_tokenizer`; or the tokenizer is another model's.
    """
    out = Path(out)
    if out.exists():
        raise CcmbError(f"{out}: exists already; give a new folder")
    try:
        weights = read_checkpoint(checkpoint, key)
        model = from_official(weights.state)
    except CcmbError as error:
        raise CcmbError(str(error) if str(checkpoint) in str(error) else f"{checkpoint}: {error}") from None
    loaded_tokenizer, vocabulary = load_tokenizer(tokenizer), model.config.text_config.vocab_size
    if len(loaded_tokenizer) != vocabulary:
        raise CcmbError(
            f"{tokenizer}: has {len(loaded_tokenizer):,} tokens, but the checkpoint was trained with {vocabulary:,}"
        )
    model.config.sources = [source_of("model", checkpoint)]
    with atomic_path(out) as folder:
        model.save_pretrained(folder)
        R2D2Processor(loaded_tokenizer, model.config.image_size, MAX_TEXT_TOKENS).save_pretrained(folder)
        save_file(dict(model.official_unused), folder / UNUSED_FILE)  # type: ignore[arg-type]
    return model, weights


def convert_to_official(model: str | Path, out: str | Path) -> list[str]:
    """Write the official state dict of a run or model folder as one safetensors file.

    Returns:
        Names of the tensors that the official network has no place for.

    Raises:
        CcmbError: the model cannot be loaded, or is not of the official kind, see `to_official`.
    """
    folder = model_folder(model)
    network, _ = load_model(folder, dtype="auto")
    unused = read_tensors(folder / UNUSED_FILE) if (folder / UNUSED_FILE).is_file() else None
    with atomic_path(out) as file:
        save_file({name: tensor.contiguous() for name, tensor in to_official(network, unused).items()}, file)
    return [name for name in network.state_dict() if name.startswith("mlm_head.")]


def _read_config(state: Mapping[str, Tensor]) -> R2D2Config:
    def shape(name: str, dimensions: int) -> torch.Size:
        if name not in state:
            raise CcmbError(f"the checkpoint lacks the tensor {name}; it is not R2D2's or PRD2's")
        if state[name].dim() != dimensions:
            raise CcmbError(f"tensor {name} has {state[name].dim()} dimensions; {dimensions} were expected")
        return state[name].shape

    def layers(prefix: str) -> int:
        numbers = [int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)]
        return max(numbers, default=-1) + 1

    width, _, patch, _ = shape("visual_encoder.embeddings.patch_embedding.weight", 4)
    tokens, _ = shape("visual_encoder.embeddings.position_embedding.weight", 2)
    vocabulary, text_width = shape("text_encoder.embeddings.word_embeddings.weight", 2)
    return R2D2Config(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": width,
            "intermediate_size": shape("visual_encoder.encoder.layers.0.mlp.fc1.weight", 2)[0],
            "num_hidden_layers": layers("visual_encoder.encoder.layers."),
            "num_attention_heads": max(1, width // HEAD_WIDTH),
            "image_size": math.isqrt(tokens - 1) * patch,
            "patch_size": patch,
        },
        text_config={
            "model_type": "bert",
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": shape("text_encoder.encoder.layer.0.intermediate.dense.weight", 2)[0],
            "num_hidden_layers": layers("text_encoder.encoder.layer."),
            "num_attention_heads": max(1, text_width // HEAD_WIDTH),
            "max_position_embeddings": shape("text_encoder.embeddings.position_embeddings.weight", 2)[0],
            "type_vocab_size": shape("text_encoder.embeddings.token_type_embeddings.weight", 2)[0],
            "pad_token_id": 0,
        },
        embed_dim=shape("vision_proj.weight", 2)[0],
        cross_layers=layers("text_joint_layer.encoder.layer."),
        mlm_head=False,
    )


def _empty(config: R2D2Config) -> R2D2Model:
    with torch.device("meta"):
        return R2D2Model(config)


def _our_name(official: str) -> str:
    for prefix, own_prefix in PREFIXES.items():
        if official.startswith(prefix):
            return own_prefix + official.removeprefix(prefix)
    raise KeyError(official)


def _official_name(own_name: str) -> str:
    for official, prefix in PREFIXES.items():
        if own_name.startswith(prefix):
            return official + own_name.removeprefix(prefix)
    raise KeyError(own_name)


def _stand_ins(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stand-ins for the tensors that the official code expects but never reads."""
    width = state["text_proj.weight"].shape[1]
    unused = {"text_encoder.pooler.dense.weight": torch.zeros(width, width)}
    unused["text_encoder.pooler.dense.bias"] = torch.zeros(width)
    for layer in ("text_joint_layer", "img_joint_layer"):
        if f"{layer}.encoder.layer.0.output.dense.weight" not in state:
            continue
        for part in ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
            # Copies: safetensors does not write the same memory under two names.
            unused[f"{layer}.embeddings.{part}"] = state[f"text_encoder.embeddings.{part}"].clone()
    return unused
