"""R2D2 from pre-trained towers: any pair of hub ids or local folders, or a whole Chinese-CLIP.

Only what the sources do not hold starts at random: cross encoders, heads and, for a pair, the projections.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    ChineseCLIPModel,
    CLIPVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from ccmb.data.transforms import CLIP_MEAN, CLIP_STD
from ccmb.errors import CcmbError, UsageError, did_you_mean
from ccmb.files import read_json
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model, tower_class
from ccmb.r2d2.processing import FILE_NAME, R2D2Processor

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

CLIP: Statistics = (CLIP_MEAN, CLIP_STD)
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Image towers by model_type, with the pixel statistics of sources that do not tell theirs.
FAMILIES = {
    "clip_vision_model": CLIP,
    "siglip_vision_model": HALF,
    "vit": HALF,
    "beit": HALF,
    "dinov2": IMAGENET,
    "dinov2_with_registers": IMAGENET,
    "dinov3_vit": IMAGENET,
}
FROM_CHINESE_CLIP = ("embed_dim", "image_pooling", "initial_temperature")


def from_towers(vision: str | Path, text: str | Path, **config: Any) -> tuple[R2D2Model, R2D2Processor]:
    """Network (in evaluation mode, float32) and processor of two pre-trained towers.

    Projections, cross encoders and heads are new, drawn from torch's global generator.

    Args:
        vision: local folder or hub id of an image model (CLIP, SigLIP, DINOv2, DINOv3, ViT, BEiT), or of a whole CLIP
            or SigLIP, whose image half is taken.
        text: local folder or hub id of a BERT-like encoder (BERT, RoBERTa, XLM-R, ERNIE, ...) with its tokenizer.
        config: further fields of R2D2Config.

    Raises:
        UsageError: a tower of an unknown kind, an unknown field, or values that do not go together.
        CcmbError: a source is not there, or its weights or tokenizer are not whole; the message names it.
    """
    _check_fields(config)
    image_config, text_config = _vision_config(vision), _text_config(text)
    with _sizes_checked(f"{vision} and {text}"):
        shape = R2D2Config(vision_config=image_config, text_config=text_config, **config)
        image_state = _tower_state(vision, image_config, pooler=shape.image_pooling == "tower")
        model = _network(shape, image_state, _tower_state(text, text_config, pooler=False))
        return model, _processor(model, vision, text)


def from_chinese_clip(name: str | Path, **config: Any) -> tuple[R2D2Model, R2D2Processor]:
    """Network (in evaluation mode, float32) and processor of a Chinese-CLIP in transformers' form.

    Both towers, their projections and the temperature are the checkpoint's, so that the embeddings are too; cross
    encoders and heads are new, drawn from torch's global generator. `cross_layers=0` leaves them out.

    Args:
        name: local folder or hub id.
        config: further fields of R2D2Config.

    Raises:
        UsageError: an unknown field, or one that the checkpoint settles.
        CcmbError: the source is not there, no Chinese-CLIP, or not whole; the message names it.
    """
    _check_fields(config)
    if settled := sorted(set(config) & set(FROM_CHINESE_CLIP)):
        raise UsageError(f"{settled[0]} comes from the Chinese-CLIP checkpoint; leave it out")
    source = _read_config(name)
    if source.model_type != "chinese_clip":
        raise CcmbError(f"{name}: its config.json says {source.model_type}, not chinese_clip")
    clip = _load(name, ChineseCLIPModel, source)
    with _sizes_checked(str(name)):
        shape = R2D2Config(
            vision_config=_same_shape(CLIPVisionConfig(), source.vision_config),
            text_config=_same_shape(BertConfig(), source.text_config),
            embed_dim=source.projection_dim,
            image_pooling="tower",
            initial_temperature=math.exp(-float(clip.logit_scale.detach())),
            **config,
        )
        model = _network(shape, clip.vision_model.state_dict(), clip.text_model.state_dict())
        no_bias = torch.zeros(shape.embed_dim)
        model.image_projection.load_state_dict({"weight": clip.visual_projection.weight, "bias": no_bias})
        model.text_projection.load_state_dict({"weight": clip.text_projection.weight, "bias": no_bias})
        return model, _processor(model, name, name)


def is_chinese_clip(name: str | Path) -> bool:
    """Whether a local folder or hub id is a Chinese-CLIP's; a folder without config.json is not.

    Raises:
        CcmbError: there is no such folder and no such model on the hub, or its config.json is not readable.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        return False
    return _read_config(name).model_type == "chinese_clip"


@contextmanager
def _sizes_checked(sources: str) -> Iterator[None]:
    """Turn whatever the towers make of sizes that do not go together into one line."""
    try:
        yield
    except CcmbError:
        raise
    except Exception as error:
        raise UsageError(f"{sources}: not the towers of a network ({_one_line(error)})") from None


def _check_fields(config: Mapping[str, Any]) -> None:
    known = set(inspect.signature(R2D2Config.__init__).parameters) - {"self", "vision_config", "text_config", "kwargs"}
    if unknown := sorted(set(config) - known):
        raise UsageError(
            f"{unknown[0]} is no field of R2D2Config to give here{did_you_mean(unknown[0], sorted(known))}"
        )


def _read_config(name: str | Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(str(name))
    except Exception as error:  # not there, not JSON, or of a kind that transformers does not know
        if Path(name).is_dir():
            raise CcmbError(f"{Path(name) / 'config.json'}: not a model's ({_one_line(error)})") from None
        raise CcmbError(f"{name}: no such model folder, nor one on the hub ({_one_line(error)})") from None
    return config


def _vision_config(name: str | Path) -> PreTrainedConfig:
    config = _read_config(name)
    config = getattr(config, "vision_config", config)
    if config.model_type == "siglip2_vision_model":
        raise UsageError(
            f"{name}: a NaFlex SigLIP 2 takes pictures of any shape; "
            "use a SigLIP 2 of fixed resolution, such as google/siglip2-base-patch16-224 (model_type siglip)"
        )
    if config.model_type not in FAMILIES:
        raise UsageError(f"{name}: {config.model_type} is no image tower; give one of {', '.join(FAMILIES)}")
    config.dtype = torch.float32
    return config


def _text_config(name: str | Path) -> PreTrainedConfig:
    config = _read_config(name)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise UsageError(f"{name}: {config.model_type} is no BERT-like text encoder; give one, such as bert or roberta")
    config.dtype = torch.float32
    return config


def _same_shape(config: PreTrainedConfig, other: PreTrainedConfig) -> PreTrainedConfig:
    """`config` with the values of another kind's for all fields of its own."""
    fields = other.to_dict()
    mine = {key: fields[key] for key in config.to_dict() if key in fields and key != "model_type"}
    return type(config)(**mine | {"dtype": torch.float32})


def _tower_state(name: str | Path, config: PreTrainedConfig, pooler: bool) -> dict[str, Tensor]:
    kind, options = tower_class(config, pooler)
    return _load(name, kind, config, "" if pooler else "pooler.", **options).state_dict()


def _load(name: str | Path, kind: Any, config: PreTrainedConfig, unused: str = "", **options: Any) -> Any:
    """A model with all of its weights from the source; only tensors whose names begin with `unused` may be missing."""
    try:
        model, info = kind.from_pretrained(
            str(name), config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:  # whatever transformers or safetensors make of missing or damaged files
        raise CcmbError(f"{name}: the weights cannot be loaded ({_one_line(error)})") from None
    missing = sorted(key for key in info["missing_keys"] if not (unused and key.startswith(unused)))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CcmbError(f"{name}: the weights lack the tensor {missing[0]}{more}; give a source with whole weights")
    return model


def _network(config: R2D2Config, image_state: Mapping[str, Tensor], text_state: Mapping[str, Tensor]) -> R2D2Model:
    model = R2D2Model(config)
    model.image_tower.load_state_dict(image_state)
    model.text_tower.load_state_dict(text_state)
    return model.eval()


def _processor(model: R2D2Model, vision: str | Path, text: str | Path) -> R2D2Processor:
    """The processor of both sources, tried out with the network."""
    config = model.config
    most = _most_tokens(model.text_tower)
    if most is not None and config.max_text_tokens > most:
        raise UsageError(f"max_text_tokens is {config.max_text_tokens}, but {text} has positions for {most} tokens")
    mean, std = _statistics(vision, config.vision_config.model_type)
    tokenizer = _tokenizer(text, config)
    processor = R2D2Processor(tokenizer, config.image_size, config.max_text_tokens, mean, std)
    _try_out(model, processor)
    return processor


def _most_tokens(tower: PreTrainedModel) -> int | None:
    """The longest text that a text tower has positions for, or None if any will do."""
    table = getattr(getattr(tower, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return getattr(tower.config, "max_position_embeddings", None)
    # RoBERTa and its kin count positions from the one after padding's.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _statistics(name: str | Path, family: str) -> Statistics:
    """Mean and standard deviation of RGB in [0, 1] that the source was trained with."""
    for file in (FILE_NAME, "processor_config.json"):
        try:
            path = Path(str(cached_file(str(name), file)))
        except OSError:
            continue
        values = read_json(path)
        values = values.get("image_processor", values)
        if "image_mean" in values and "image_std" in values:
            mean, std = (tuple(map(float, values[key])) for key in ("image_mean", "image_std"))
            return mean, std
    return FAMILIES[family]


def _tokenizer(name: str | Path, config: R2D2Config) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name))
    except Exception as error:  # whatever tokenizers makes of a damaged file
        raise CcmbError(f"{name}: the tokenizer cannot be loaded ({_one_line(error)})") from None
    # Without its files transformers makes a tokenizer of special tokens alone, and says nothing.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)) + 1:
        raise CcmbError(f"{name}: no tokenizer; its files (tokenizer.json or vocab.txt) must be there too")
    if len(tokenizer) > config.text_config.vocab_size:
        raise CcmbError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, but the tower only {config.text_config.vocab_size}"
        )
    for token in ("pad_token", "mask_token") if config.mlm_head else ("pad_token",):
        if getattr(tokenizer, token) is None:
            raise CcmbError(f"{name}: the tokenizer has no {token}; name one in its tokenizer_config.json")
    return tokenizer


@torch.no_grad()
def _try_out(model: R2D2Model, processor: R2D2Processor) -> None:
    """Use every part once: many only notice then that their sizes do not go together."""
    images = model.encode_image(torch.zeros(1, 3, processor.image_size, processor.image_size))
    texts = model.encode_text(**processor.texts(["图"]))
    first = torch.zeros(1, dtype=torch.long)
    if model.can_rank:
        model.rank(images, texts, first, first)
    if model.config.mlm_head:
        model.mlm_logits(model.read_texts(images, texts, first, first)[0])


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
