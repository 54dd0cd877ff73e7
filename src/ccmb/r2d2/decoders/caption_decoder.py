"""The decoder of a captioner, and captions in progress.

Shapes: V images, N = V * R captions in progress (the R of one image side by side), T tokens, S image tokens,
W width, H heads of width D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ccmb.core.errors import UsageError, one_line
from ccmb.core.floats import at_least_float32
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.cross_encoder import AttentionBlock, CrossEncoder, CrossLayer, Intermediate, ResidualOutput
from ccmb.r2d2.decoders.word_head import MaskedLanguageHead
from ccmb.r2d2.projection import Standardize

KeysValues = tuple[Tensor, Tensor]


class TextLayer(nn.Module):
    """A BERT layer under BERT's names: self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.attention = AttentionBlock(width, heads, width, dropout, eps)
        self.intermediate = Intermediate(width, ffn)
        self.output = ResidualOutput(ffn, width, dropout, eps)

    def feed_forward(self, states_NTW: Tensor) -> Tensor:
        return self.output(self.intermediate(states_NTW), states_NTW)


class CaptionDecoder(nn.Module):
    """Token embeddings, causal layers and the head that predicts the next token.

    Args:
        text_layers: number of the text tower's layers that it copies and makes causal.
        cross_layers: number of layers above them that read the image.
        standardize_states: whether it standardises the image's states before it reads them.
        vocab_size: tokens that it knows; by default the text tower's.
        dropout: of what goes into the layers and of those of the text tower; by default the text tower's.
    """

    def __init__(
        self,
        config: R2D2Config,
        text_layers: int,
        cross_layers: int,
        *,
        standardize_states: bool = False,
        vocab_size: int | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        text, width = config.text_config, config.text_config.hidden_size
        vocab_size = text.vocab_size if vocab_size is None else vocab_size
        dropout = getattr(text, "hidden_dropout_prob", 0.0) if dropout is None else dropout
        eps = getattr(text, "layer_norm_eps", 1e-12)  # not all text towers are BERT's kind
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_text_tokens, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.text_layers = nn.ModuleList(
            TextLayer(width, text.num_attention_heads, text.intermediate_size, dropout, eps) for _ in range(text_layers)
        )
        context = config.image_width
        self.cross_layers = CrossEncoder(
            layers=cross_layers,
            width=width,
            heads=config.cross_heads,
            ffn=config.cross_ffn,
            context_width=context,
            dropout=config.cross_dropout,
        ).layer
        self.head = MaskedLanguageHead(width, vocab_size)
        self.standardize = Standardize(context) if standardize_states else None

    @torch.no_grad()
    def begin(self, model: Any) -> None:
        """Copy an R2D2's weights; what it lacks, such as a masked-language head, stays as it is in the decoder.

        Raises:
            UsageError: its text tower is not BERT's kind.
        """
        embeddings, layers = bert_parts(model)
        words, positions = embeddings.word_embeddings.weight, embeddings.position_embeddings
        # RoBERTa and its kin count positions from the one after padding's. All tokens are of one segment.
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        positions_PW = positions.weight[first : first + len(self.position_embeddings.weight)]
        try:
            self.word_embeddings.weight.copy_(words)
            self.position_embeddings.weight.copy_(positions_PW + embeddings.token_type_embeddings.weight[0])
            self.LayerNorm.load_state_dict(embeddings.LayerNorm.state_dict())
            for decoder_layer, layer in zip(self.text_layers, layers, strict=False):
                decoder_layer.load_state_dict(layer.state_dict())
            if hasattr(model, "text_image_encoder"):
                for decoder_layer, layer in zip(self.cross_layers, model.text_image_encoder.layer, strict=False):
                    decoder_layer.load_state_dict(layer.state_dict())
            if model.config.mlm_head:
                self.head.load_state_dict(model.mlm_head.state_dict())
        except RuntimeError as error:
            raise UsageError(f"the text tower is not BERT's kind: {one_line(error)}") from None

    def see(self, states_VSC: Tensor) -> list[KeysValues]:
        """Keys and values (V, H, S, D) of the image tokens, for each layer that reads them."""
        if self.standardize is not None:
            states_VSC = self.standardize(states_VSC)
        return [cast(CrossLayer, layer).crossattention.keys_values(states_VSC) for layer in self.cross_layers]

    def forward(
        self, input_ids_NT: Tensor, seen: Sequence[KeysValues], before: Sequence[KeysValues] = ()
    ) -> tuple[Tensor, list[KeysValues]]:
        """States (N, T, W) of the next T tokens, and keys and values (N, H, tokens, D) of all so far, layer by layer.

        Args:
            seen: of the images; see `see`.
            before: the keys and values that the previous call returned; empty at the start of a caption.
        """
        count, tokens = input_ids_NT.shape
        done = before[0][0].shape[2] if before else 0
        positions = torch.arange(done, done + tokens, device=input_ids_NT.device)
        states = self.word_embeddings(input_ids_NT) + self.position_embeddings(positions)
        states = self.dropout(self.LayerNorm(states))
        causal = None
        if tokens > 1:  # one token alone may see all before it
            causal = (positions[:, None] >= torch.arange(done + tokens, device=positions.device))[None, None]
        after = list[KeysValues]()
        images = iter(seen)
        for layer_index, layer in enumerate([*self.text_layers, *self.cross_layers]):
            attention = cast(AttentionBlock, layer.attention)
            keys, values = attention.keys_values(states)
            if before:
                keys, values = (torch.cat(pair, 2) for pair in zip(before[layer_index], (keys, values), strict=True))
            after.append((keys, values))
            states = attention(states, keys, values, causal)
            if isinstance(layer, TextLayer):
                states = layer.feed_forward(states)
            else:  # all captions of an image ask its tokens together, which are held once
                image_keys, image_values = next(images)
                asking = states.view(image_keys.shape[0], -1, states.shape[-1])
                states = cast(CrossLayer, layer).attend_other(asking, image_keys, image_values, None)
                states = states.view(count, tokens, states.shape[-1])
        return states, after

    def logits(self, states: Tensor) -> Tensor:
        """(..., vocabulary) float32 logits of the token that follows each state."""
        return at_least_float32(self.head(states, self.word_embeddings.weight))


class CaptionState:
    """Captions in progress: it predicts the next token of each, and can drop captions and duplicate others.

    Args:
        seen: keys and values of V images, see `CaptionDecoder.see`; each image starts with one caption.
        cached: keep keys and values of the tokens so far. Without it all tokens are computed again for each further
            token, which is the reference.
    """

    def __init__(self, decoder: CaptionDecoder, seen: Sequence[KeysValues], cached: bool = True) -> None:
        self.decoder, self.seen, self.cached = decoder, seen, cached
        self._before = list[KeysValues]()
        self._tokens_NT: Tensor | None = None

    def advance(self, tokens_N: Tensor) -> Tensor:
        """Add a token to each caption, and give the logits (N, vocabulary) of the next."""
        next_N1 = tokens_N.to(self.seen[0][0].device)[:, None]
        if self.cached:
            states, self._before = self.decoder(next_N1, self.seen, self._before)
        else:
            self._tokens_NT = next_N1 if self._tokens_NT is None else torch.cat([self._tokens_NT, next_N1], 1)
            states, _ = self.decoder(self._tokens_NT, self.seen)
        return self.decoder.logits(states[:, -1])

    def choose(self, index_M: Tensor) -> None:
        """Go on with these captions only: equally many of each image, and those of one image side by side."""
        self._before = [
            (keys.index_select(0, index_M), values.index_select(0, index_M)) for keys, values in self._before
        ]
        if self._tokens_NT is not None:
            self._tokens_NT = self._tokens_NT[index_M]


def bert_parts(model: Any) -> tuple[Any, Any]:
    """The embeddings and the layers of a text tower.

    Raises:
        UsageError: it has no such parts.
    """
    tower: Any = model.text_tower
    try:
        embeddings, layers = tower.embeddings, tower.encoder.layer
        _ = embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings
    except AttributeError:
        kind = model.config.text_config.model_type
        raise UsageError(f"a captioner is made of a BERT-like text tower, and this model's is {kind}") from None
    return embeddings, layers
