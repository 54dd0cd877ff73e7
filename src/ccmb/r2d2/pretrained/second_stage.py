"""A new second stage for towers alone: cross encoders, a decoder that ranks by likelihood, or fewer tokens."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from ccmb.core.errors import UsageError
from ccmb.r2d2.decoders.likelihood import TextLikelihood
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.projection import Standardize
from ccmb.r2d2.towers.token_reduction import GROUPS, TokenReduction

BATCH = 4096  # texts whose tokens are counted at a time


def with_cross_encoders(model: R2D2Model, **fields: Any) -> R2D2Model:
    """A network with the same towers and new cross encoders, whose random weights are of torch's generator.

    Args:
        fields: of R2D2Config, `cross_layers` among them.
    """
    config = copy.deepcopy(model.config)
    for key, value in fields.items():
        setattr(config, key, value)
    whole = R2D2Model(config)
    whole.load_state_dict(model.state_dict(), strict=False)
    return whole.train(model.training)


def add_decoder(
    model: R2D2Model,
    processor: R2D2Processor,
    layers: int,
    standardize_states: bool,
    texts: Iterable[str],
    max_tokens: int | None = None,
) -> None:
    """Give a network a new decoder that knows the tokens of some texts; its random weights are of torch's generator.

    Args:
        max_tokens: it knows so many of the most frequent ones, and all others as one; by default all.

    Raises:
        UsageError: it has cross encoders, which rank already.
    """
    config = model.config
    if config.cross_layers:
        raise UsageError(
            f"objectives.lm trains a decoder that ranks, and this network has cross encoders (model.cross_layers is "
            f"{config.cross_layers}); give model.cross_layers=0, or set objectives.lm=off"
        )
    tokens, prefix = _tokens(processor, texts, max_tokens)
    config.decoder_layers, config.decoder_vocab_size = layers, len(tokens) + 1
    config.decoder_skipped_tokens = prefix
    weight = model.temperature
    decoder = TextLikelihood(config).to(weight.device, weight.dtype)
    decoder.apply(model._init_weights)
    decoder.begin(cast(nn.Embedding, model.text_tower.get_input_embeddings()).weight, tokens)
    model.likelihood = decoder.train(model.training)
    if standardize_states and model.image_standardize is None:
        config.standardize_states = True
        model.image_standardize = Standardize(config.image_width).to(weight.device, weight.dtype)


def add_token_reduction(model: R2D2Model, tokens: int) -> None:
    """Let late interaction read so many sums of an image's tokens; their random weights are of torch's generator.

    Raises:
        UsageError: the embeddings have not the width for it.
    """
    if model.config.embed_dim % GROUPS:
        raise UsageError(f"model.reduced_tokens: needs a model.embed_dim that {GROUPS} divides")
    model.config.reduced_tokens = tokens
    weight, reduction = model.temperature, TokenReduction(model.config.embed_dim, tokens)
    model.token_reduction = reduction.to(weight.device, weight.dtype).train(model.training)


def _tokens(processor: R2D2Processor, texts: Iterable[str], max_tokens: int | None) -> tuple[list[int], int]:
    """The most frequent tokens of some texts, and how many after the first all have because of the prefix."""
    counts, every = Counter[int](), list(dict.fromkeys(texts))
    for start in range(0, len(every), BATCH):
        encoded = processor.texts(every[start : start + BATCH])
        ids, times = encoded["input_ids"][encoded["attention_mask"].bool()].unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), times.tolist(), strict=True)))
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[:max_tokens]
    return sorted(frequent), _prefix_length(processor)


def _prefix_length(processor: R2D2Processor) -> int:
    if not processor.text_prefix:
        return 0
    # Special tokens stand before and behind; what follows a prefix may change how its end is cut.
    ids = [processor.texts([text])["input_ids"][0].tolist() for text in ("一", "a")]
    same = next((at for at, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1]), len(ids[0]))
    return max(0, same - 1)
