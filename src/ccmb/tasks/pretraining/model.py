"""The network of a pre-training run: from a model, from two pre-trained towers, or new."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ccmb.core.config.given_keys import is_given
from ccmb.core.config.recipe_files import find_weights
from ccmb.core.device import inference
from ccmb.core.errors import UsageError, one_line
from ccmb.data.sample import Sample
from ccmb.objectives.config import Objectives
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.weight_sources import carried_on, with_licenses
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.presets import preset
from ccmb.r2d2.pretrained.second_stage import add_decoder, add_token_reduction, with_cross_encoders
from ccmb.r2d2.pretrained.towers import FROM_CHINESE_CLIP, from_chinese_clip, from_towers, is_chinese_clip
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.resizing import resize
from ccmb.r2d2.sinusoidal import sine_positions
from ccmb.r2d2.tokenizer import train_tokenizer
from ccmb.training.model_recipe import LONGEST, ModelRecipe

# Keys of a recipe that are not R2D2Config's.
NO_FIELDS = {
    "init_from",
    "preset",
    "vision",
    "text",
    "vocab_size",
    "freeze_image_tower",
    "freeze",
    "image_size",
    "lora",
    "licenses",
    "decoder_layers",
    "decoder_max_tokens",
    "reduced_tokens",
}
# What of an R2D2 to start from a recipe may give otherwise, and what its weights settle.
CHANGED = ("cross_dropout", "projection_dropout", "ranking_rule", "match_weight", "rerank_k", "temperature_min")
SETTLED = (
    "embed_dim",
    "projection_hidden",
    "projection_heads",
    "cross_layers",
    "standardize_states",
    "initial_temperature",
    "image_pooling",
    "text_pooling",
    "text_prefix",
)
SECOND = ("cross_layers", "standardize_states")  # what of SETTLED towers alone do not settle: they get a new stage
M = TypeVar("M", bound=R2D2Model)


def build_model(
    shape: ModelRecipe, objectives: Objectives, samples: Iterable[Sample]
) -> tuple[R2D2Model, R2D2Processor]:
    """The network and processor of a recipe; what starts from towers alone gets the second stage that it asks for.

    Unless it starts from a whole R2D2, it has the heads of the objectives that are on, so that nothing in it stays
    untrained. Of such an R2D2 the recipe may give CHANGED otherwise; SETTLED must be as the weights have it.

    Raises:
        UsageError: the recipe's values are not the shape of a network, or its preset is unknown.
        CcmbError: what it starts from is not there or not whole; the message names it.
    """
    model, processor = _without_decoder(shape, objectives, samples)
    config = model.config
    if shape.init_from and is_given(shape, "cross_layers") and shape.cross_layers and not config.cross_layers:
        heads = {"match_heads": objectives.fgr.weight > 0, "mlm_head": objectives.mlm.weight > 0}
        model = with_cross_encoders(
            model, cross_layers=shape.cross_layers, standardize_states=shape.standardize_states, **heads
        )
    if objectives.lm.weight and not config.decoder_layers:
        texts = (text for sample in samples for text in sample.texts)
        add_decoder(
            model, processor, shape.decoder_layers, shape.standardize_states, texts, max_tokens=shape.decoder_max_tokens
        )
    elif config.decoder_layers and is_given(shape, "decoder_max_tokens"):
        raise UsageError(
            "model.decoder_max_tokens is of a new decoder, and the model to start from has one; leave it out"
        )
    elif config.decoder_layers and is_given(shape, "decoder_layers"):
        _check_settled(shape, config, ("decoder_layers",))
    if objectives.tokenwise.weight and shape.reduced_tokens and not config.reduced_tokens:
        add_token_reduction(model, shape.reduced_tokens)
    elif config.reduced_tokens:
        _check_settled(shape, config, ("reduced_tokens",))
    return model, processor


def _without_decoder(
    shape: ModelRecipe, objectives: Objectives, samples: Iterable[Sample]
) -> tuple[R2D2Model, R2D2Processor]:
    fields = shape.model_dump(exclude=NO_FIELDS)
    fields |= {"match_heads": objectives.fgr.weight > 0, "mlm_head": objectives.mlm.weight > 0}
    fields["train_batch_norm"] = trains_batch_norm(shape)
    if shape.init_from and is_chinese_clip(shape.init_from):
        fields["max_text_tokens"] = shape.max_text_tokens or LONGEST
        fields = {key: fields[key] for key in fields if key not in FROM_CHINESE_CLIP}
        model, processor = from_chinese_clip(shape.init_from, **fields)
        _check_settled(shape, model.config, ("embed_dim", "initial_temperature"))
        model.config.sources = with_licenses(model.config.sources, shape.licenses.model_dump())
        return resize(model, processor, shape.image_size)
    if shape.init_from:
        return resize(*load_start(shape, load_model), shape.image_size, shape.max_text_tokens)
    if isinstance(shape.vision, str) or isinstance(shape.text, str):  # the recipe sees to it that both are
        towers = find_weights(str(shape.vision)), find_weights(str(shape.text))
        model, processor = from_towers(*towers, **fields)
        model.config.sources = with_licenses(model.config.sources, shape.licenses.model_dump())
        return resize(model, processor, shape.image_size)
    if shape.preset:
        named = preset(shape.preset)
        fields |= {"embed_dim": named.embed_dim, "cross_layers": named.cross_layers}
        vision, text = named.vision_config.to_dict() | {"image_size": named.image_size}, named.text_config.to_dict()
        return _new(_of_size(vision, shape.image_size, False), text, shape.vocab_size, fields, samples)
    return _new(_of_size(shape.vision, shape.image_size, True), shape.text, shape.vocab_size, fields, samples)


def trains_batch_norm(shape: ModelRecipe) -> bool:
    """Whether batch norm is trained: as the recipe says, and by default that of new networks alone."""
    pre_trained = bool(shape.init_from) or isinstance(shape.vision, str)
    return not pre_trained if shape.train_batch_norm is None else shape.train_batch_norm


def refuse_sizes(shape: ModelRecipe, what: str) -> None:
    """Raise a UsageError that names the size that a recipe gives, for a start that cannot be resized.

    Args:
        what: such as "a captioner".
    """
    for key in ("image_size", "max_text_tokens"):
        if getattr(shape, key) is not None:
            raise UsageError(
                f"model.{key}: {shape.init_from} is {what}, which keeps its sizes; start from the R2D2 it was made of"
            )


def _of_size(vision: dict[str, Any], image_size: int | None, is_given: bool) -> dict[str, Any]:
    """A new image tower's shape with the size of the recipe."""
    if image_size is None:
        return vision
    if is_given and vision.get("image_size", image_size) != image_size:
        raise UsageError(f"model.image_size={image_size}, but model.vision.image_size={vision['image_size']}; give one")
    return vision | {"image_size": image_size}


def load_start(shape: ModelRecipe, load: Callable[..., tuple[M, R2D2Processor]]) -> tuple[M, R2D2Processor]:
    """The R2D2 that a recipe starts from, with what the recipe gives of it; the sources of its weights are carried on.

    Args:
        load: `load_model`, or what loads a captioner or a generator.

    Raises:
        UsageError: the recipe gives what the weights settle otherwise, or a licence for what it lacks; the message
            names the key.
        CcmbError: see `load_model`.
    """
    changes = {key: getattr(shape, key) for key in is_given(shape, *CHANGED)}
    changes["train_batch_norm"] = bool(shape.train_batch_norm)
    model, processor = load(str(shape.init_from), changes=changes)
    has_second = model.config.cross_layers or model.config.decoder_layers
    _check_settled(shape, model.config, SETTLED if has_second else [key for key in SETTLED if key not in SECOND])
    sources = carried_on(model.config.sources, str(shape.init_from))
    model.config.sources = with_licenses(sources, shape.licenses.model_dump())
    return model, processor


def _check_settled(shape: ModelRecipe, config: R2D2Config, keys: Sequence[str]) -> None:
    """Refuse other values than those that the weights to start from settle."""
    for key in is_given(shape, *keys):
        its, wanted = getattr(config, key), getattr(shape, key)
        if its == wanted or (isinstance(its, float) and math.isclose(its, wanted)):
            continue
        wanted, its = (f"{value:g}" if isinstance(value, float) else value for value in (wanted, its))
        raise UsageError(
            f"model.{key}={wanted}: the weights of {shape.init_from} settle it, and theirs is {its}; leave it out"
        )


def _new(
    vision: dict[str, Any], text: dict[str, Any], vocabulary: int, fields: dict[str, Any], samples: Iterable[Sample]
) -> tuple[R2D2Model, R2D2Processor]:
    """A network of random weights, with a tokenizer of the run's texts."""
    texts, longest = [text for sample in samples for text in sample.texts], fields["max_text_tokens"]
    prefix, pooling = fields["text_prefix"], fields["text_pooling"] or "first"
    tokenizer = train_tokenizer([prefix + text for text in texts], vocabulary, longest)
    text = text | {"vocab_size": len(tokenizer), "max_position_embeddings": longest}
    text |= {"pad_token_id": tokenizer.pad_token_id}
    try:
        config = R2D2Config(vision_config=vision, text_config=text, **fields | {"text_pooling": pooling})
        model, processor = R2D2Model(config), R2D2Processor(tokenizer, config.image_size, longest, text_prefix=prefix)
        with inference(model):  # many towers only notice when they are used that their sizes do not go together
            model.encode_image(torch.zeros(1, 3, config.image_size, config.image_size))
            model.encode_text(**processor.texts(texts[:1]))
    except Exception as error:  # whatever the towers make of a wrong configuration
        raise UsageError(f"model: not the shape of a network ({one_line(error, 300)})") from None
    start_text_positions(model)
    return model, processor


@torch.no_grad()
def start_text_positions(model: R2D2Model) -> None:
    """Give a BERT-like text tower that is sines for positions, as large as the random ones."""
    embeddings = getattr(model.text_tower, "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if isinstance(positions, nn.Embedding):
        sines = sine_positions(*positions.weight.shape)
        positions.weight.copy_(sines * positions.weight.std() / sines.std())
