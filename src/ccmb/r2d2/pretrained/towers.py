"""R2D2 from pre-trained towers: any pair of hub ids or local folders, or a whole Chinese-CLIP.

Only the parts that the sources lack start at random: cross encoders, heads and, for a pair, the projections.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING, BertConfig, CLIPVisionConfig, PreTrainedConfig

from ccmb.core.errors import CcmbError, UsageError, did_you_mean, one_line
from ccmb.r2d2.backbones import max_tokens, tower_class
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.weight_sources import source_of
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.pretrained.sources import (
    FAMILIES,
    IMAGENET,
    Statistics,
    load_text_tokenizer,
    load_weights,
    preprocessing,
    read_config,
    text_pooling,
)
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import load_tokenizer, lower_cased, straighten_quotes
from ccmb.r2d2.towers.image_forms import USUAL_SIZE, image_form, image_side, set_image_side
from ccmb.r2d2.towers.siglip_text import is_siglip_text

FROM_CHINESE_CLIP = (
    "embed_dim",
    "projection_hidden",
    "projection_heads",
    "projection_dropout",
    "image_pooling",
    "initial_temperature",
    "text_pooling",
    "text_prefix",
)
# Chinese-CLIP's names -> ours. It stores the temperature as the logarithm of its inverse.
CHINESE_CLIP_NAMES = {
    r"^vision_model\.": "image_tower.",
    r"^text_model\.": "text_tower.",
    r"^visual_projection\.": "image_projection.",
    r"^logit_scale$": "temperature",
}
# Our tensors that a Chinese-CLIP does not hold.
NOT_CHINESE_CLIPS = r"(?!image_tower\.|text_tower\.|(image|text)_projection\.weight|temperature)"


def from_towers(vision: str | Path, text: str | Path, **config: Any) -> tuple[R2D2Model, R2D2Processor]:
    """Network (in evaluation mode, float32) and processor of two pre-trained towers.

    Projections, cross encoders and heads are new, drawn from torch's global generator.

    Args:
        vision: local folder or hub id of an image model that gives tokens or a feature map (CLIP, SigLIP, DINO, ViT,
            ResNet, EfficientNet, ConvNeXt, Swin, PVT, ...), or of a whole CLIP or SigLIP, whose image half is taken.
        text: local folder or hub id of a BERT-like encoder (BERT, RoBERTa, XLM-R, ERNIE, E5, ...) with its tokenizer,
            or of a whole SigLIP or SigLIP 2, whose text half is taken; see `ccmb.r2d2.towers.siglip_text`.
        config: further fields of R2D2Config. By default texts are pooled as a sentence encoder's folder says, and batch
            norm keeps to its statistics.

    Raises:
        UsageError: a tower of an unknown kind, an unknown field, or values that do not go together.
        CcmbError: a source is not there, or its weights or tokenizer are not whole; the message names it.
    """
    _check_fields(config)
    given = preprocessing(vision)
    image_config, text_config = _vision_config(vision, given.size), _text_config(text)
    config = {"train_batch_norm": False} | config
    if config.get("text_pooling") is None:
        config["text_pooling"] = text_pooling(text)
    with _sizes_checked(f"{vision} and {text}"):
        shape = R2D2Config(vision_config=image_config, text_config=text_config, **config)
        image_state = _tower_state(vision, image_config, pooler=shape.image_pooling == "tower")
        model = _network(shape, image_state, _tower_state(text, text_config, pooler=False))
        model.config.sources = [source_of("image_tower", vision), source_of("text_tower", text)]
        return model, _processor(model, given.statistics, text)


def from_chinese_clip(name: str | Path, **config: Any) -> tuple[R2D2Model, R2D2Processor]:
    """Network (in evaluation mode, float32) and processor of a Chinese-CLIP in transformers' form.

    Both towers, their projections and the temperature come from the checkpoint, so the embeddings are the same. Cross
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
    source = read_config(name)
    if source.model_type != "chinese_clip":
        raise CcmbError(f"{name}: its config.json says {source.model_type}, not chinese_clip")
    with _sizes_checked(str(name)):
        shape = R2D2Config(
            vision_config=_same_shape(CLIPVisionConfig(), source.vision_config),
            text_config=_same_shape(BertConfig(), source.text_config),
            embed_dim=source.projection_dim,
            image_pooling="tower",
            **config,
        )
        # Not by ChineseCLIPModel: loading it sets the padding token's embedding to zero.
        state = load_weights(
            name, R2D2Model, shape, NOT_CHINESE_CLIPS, r"(?!)", key_mapping=CHINESE_CLIP_NAMES
        ).state_dict()
        state["temperature"] = (-state["temperature"]).exp()
        shape.initial_temperature = float(state["temperature"])
        shape.sources = [source_of("model", name)]
        model = R2D2Model(shape)  # a new one, for the loaded one would be saved under Chinese-CLIP's names
        model.load_state_dict(state)
        processor = _processor(model, preprocessing(name).statistics, name)
        processor.tokenizer = straighten_quotes(processor.tokenizer)
        return model.eval(), processor


def is_chinese_clip(name: str | Path) -> bool:
    """Whether a local folder or hub id is a Chinese-CLIP's; a folder without config.json is not.

    Raises:
        CcmbError: there is no such folder and no such model on the hub, or its config.json is not readable.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        return False
    return read_config(name).model_type == "chinese_clip"


@contextmanager
def _sizes_checked(sources: str) -> Iterator[None]:
    """Turn any error of the towers about sizes that do not go together into one line."""
    try:
        yield
    except CcmbError:
        raise
    except Exception as error:
        raise UsageError(f"{sources}: not the towers of a network ({one_line(error)})") from None


def _check_fields(config: Mapping[str, Any]) -> None:
    settled = {"self", "vision_config", "text_config", "sources", "kwargs"}
    known = set(inspect.signature(R2D2Config.__init__).parameters) - settled
    if unknown := sorted(set(config) - known):
        hint = did_you_mean(unknown[0], sorted(known))
        raise UsageError(f"{unknown[0]} is no field of R2D2Config that can be given here{hint}")


def _vision_config(name: str | Path, preprocessed: int | None) -> PreTrainedConfig:
    """The image tower's configuration.

    Args:
        preprocessed: side of the images that the source's preprocessor makes. A feature map comes of any size.
    """
    config = read_config(name)
    config = getattr(config, "vision_config", config)
    if config.model_type == "siglip2_vision_model":
        raise UsageError(
            f"{name}: a NaFlex SigLIP 2 takes images of any shape; "
            "use a SigLIP 2 of fixed resolution, such as google/siglip2-base-patch16-224 (model_type siglip)"
        )
    kind: Any = MODEL_MAPPING.get(type(config), None)
    if kind is None or kind.main_input_name != "pixel_values":
        raise UsageError(f"{name}: {config.model_type} is no image tower; give one such as clip_vision_model or resnet")
    config.dtype = torch.float32
    size = preprocessed if image_form(config).is_map else None  # of others the configuration names it
    if size or image_side(config) is None:
        set_image_side(config, size or preprocessed or USUAL_SIZE)
    return config


def _text_config(name: str | Path) -> PreTrainedConfig:
    config = read_config(name)
    half = getattr(config, "text_config", None)
    if isinstance(half, PreTrainedConfig) and is_siglip_text(half):
        config = half
        # The configuration's own default is not the padding that the model was trained with.
        config.pad_token_id = load_tokenizer(name).pad_token_id
    elif type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise UsageError(
            f"{name}: {config.model_type} is no text encoder that R2D2 takes; give one such as bert or roberta, or a "
            "whole SigLIP"
        )
    config.dtype = torch.float32
    return config


def _same_shape(config: PreTrainedConfig, other: PreTrainedConfig) -> PreTrainedConfig:
    """`config` with all of its fields that `other` has set to the values of `other`."""
    fields = other.to_dict()
    shared_fields = {key: fields[key] for key in config.to_dict() if key in fields and key != "model_type"}
    return type(config)(**shared_fields | {"dtype": torch.float32})


def _tower_state(name: str | Path, config: PreTrainedConfig, pooler: bool) -> dict[str, Tensor]:
    kind, options = tower_class(config, pooler)
    other_half = r"vision_model\." if is_siglip_text(config) else r"text_model\."  # of a whole CLIP, left out
    return load_weights(name, kind, config, r"(?!)" if pooler else r"pooler\.", other_half, **options).state_dict()


def _network(config: R2D2Config, image_state: Mapping[str, Tensor], text_state: Mapping[str, Tensor]) -> R2D2Model:
    model = R2D2Model(config)
    model.image_tower.load_state_dict(image_state)
    model.text_tower.load_state_dict(text_state)
    return model.eval()


def _processor(model: R2D2Model, statistics: Statistics | None, text: str | Path) -> R2D2Processor:
    """The processor of both sources, tried out with the network."""
    config = model.config
    position_count = max_tokens(config.text_config)
    if position_count is not None and config.max_text_tokens > position_count:
        raise UsageError(
            f"max_text_tokens is {config.max_text_tokens}, but {text} has positions for {position_count} tokens"
        )
    mean, std = statistics or FAMILIES.get(config.vision_config.model_type, IMAGENET)
    tokenizer = load_text_tokenizer(text, config.text_config.vocab_size, config.mlm_head)
    if is_siglip_text(config.text_config):  # trained on texts in lower case, which its tokenizer does not see to
        tokenizer = lower_cased(tokenizer)
    processor = R2D2Processor(
        tokenizer, config.image_size, config.max_text_tokens, mean, std, text_prefix=config.text_prefix
    )
    _try_out(model, processor)
    return processor


@torch.no_grad()
def _try_out(model: R2D2Model, processor: R2D2Processor) -> None:
    """Use every part once: many parts fail only then if their sizes do not go together."""
    side = processor.image_size
    pixels = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
    images = model.encode_image(pixels)
    if not torch.allclose(images.states, model.encode_image(pixels).states):  # ViT-MAE hides patches by chance
        kind = model.config.vision_config.model_type
        raise UsageError(f"{kind} says something else of the same image each time; give a tower that does not")
    texts = model.encode_text(**processor.texts(["图"]))
    first = torch.zeros(1, dtype=torch.long)
    if model.can_rank:
        model.rank(images, texts, first, first)
    if model.config.mlm_head:
        model.mlm_logits(model.read_texts(images, texts, first, first)[0])
