"""The cross encoder: BERT layers whose tokens also attend to the states of the other tower.

Shapes: N pairs, U items of the query side (T tokens, width W), V items of the other side (S tokens, width C),
H heads of width D. Parameter names are BERT's, so that official and BERT checkpoints load layer by layer.

An image usually stands in several pairs (its match and its hard negatives, or many candidates when ranking). So
everything that depends on one side alone is computed once per item and then picked by index: keys and values of the
other side in every layer, and the self-attention of the first layer. The match heads read only the first token, so the
last layer computes the other tokens only for pairs whose whole output is wanted. Texts are packed, see `packing.py`:
then all tokens that attend to an image do so together, and its keys and values are not even copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ccmb.r2d2.packing import Attend, PackedPairs


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention from `width` to a context of `context_width`."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)

    def _split(self, states: Tensor) -> Tensor:
        """(B, H, T, D) of (B, T, W), or (P, H, D) of packed tokens (P, W)."""
        split = states.unflatten(-1, (self.heads, states.shape[-1] // self.heads))
        return split.transpose(1, 2) if states.dim() == 3 else split

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a context (V, S, C), each (V, H, S, D), or of packed tokens (P, C), each (P, H, D)."""
        return self._split(self.key(context)), self._split(self.value(context))

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, seen: Tensor | Attend | None) -> Tensor:
        """Attend: (N, T, W), or (P, W) of packed tokens.

        `seen` (N, S) is True (or 1) where a context token may be seen. A mask of four dimensions, which may differ from
        token to token, is used unchanged. For packed tokens `seen` is the function that attends.
        """
        queries = self._split(self.query(states))
        if callable(seen) and not isinstance(seen, Tensor):
            return seen(queries, keys, values).flatten(1)
        mask = None if seen is None else seen.bool()
        if mask is not None and mask.dim() == 2:
            mask = mask[:, None, None, :]
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2).flatten(2)


class ResidualOutput(nn.Module):
    """Linear, dropout, then layer norm of the sum with the residual (post-norm, as in BERT)."""

    def __init__(self, inner: int, width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(inner)) + residual)


class AttentionBlock(nn.Module):
    """Attention and its output layer under BERT's names `self` and `output`."""

    def __init__(self, width: int, heads: int, context_width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.self = MultiHeadAttention(width, heads, context_width)
        self.output = ResidualOutput(width, width, dropout, eps)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.self.keys_values(context)

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, seen: Tensor | Attend | None) -> Tensor:
        return self.output(self.self(states, keys, values, seen), states)


class Intermediate(nn.Module):
    """The first half of BERT's feed-forward layer."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, ffn)

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class CrossLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward of states (N, T, W) or of packed tokens (P, W)."""

    def __init__(self, width: int, heads: int, ffn: int, context_width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.attention = AttentionBlock(width, heads, width, dropout, eps)
        self.crossattention = AttentionBlock(width, heads, context_width, dropout, eps)
        self.intermediate = Intermediate(width, ffn)
        self.output = ResidualOutput(ffn, width, dropout, eps)

    def attend_self(self, states: Tensor, seen: Tensor | Attend | None, asking: int | Tensor | None = None) -> Tensor:
        """Self-attention of some tokens to all tokens of their row.

        Args:
            asking: the first so many tokens of each row, the indices of packed tokens, or None for all tokens.
        """
        some = states.index_select(0, asking) if isinstance(asking, Tensor) else states[:, :asking]
        return self.attention(states if asking is None else some, *self.attention.keys_values(states), seen)

    def attend_other(self, states: Tensor, keys: Tensor, values: Tensor, seen: Tensor | Attend | None) -> Tensor:
        """Cross-attention to the other side, then the feed-forward layer."""
        states = self.crossattention(states, keys, values, seen)
        return self.output(self.intermediate(states), states)


@dataclass(frozen=True, slots=True)
class CrossOutput:
    """States after the last layer.

    Attributes:
        first: (N, W) the first token of every pair; (V, U, W) of all pairs of V and U items.
        whole: (M, T, W) all tokens of the first M pairs, if they were asked for.
    """

    first: Tensor
    whole: Tensor


@dataclass(frozen=True, slots=True)
class RankOutput:
    """The cross encoders' outputs for N pairs.

    Attributes:
        logits_text_image, logits_image_text: (N, 2) outputs of the match heads; class 1 is "match".
        states: (M, T, W) states of the text-image cross encoder for the first M pairs, if they were asked for; the
            masked-language head reads them.
    """

    logits_text_image: Tensor
    logits_image_text: Tensor
    states: Tensor

    @property
    def score(self) -> Tensor:
        """(N,) match score in [0, 1], the mean of the two match probabilities."""
        return (self.logits_text_image.softmax(-1)[:, 1] + self.logits_image_text.softmax(-1)[:, 1]) / 2

    @property
    def log_odds(self) -> Tensor:
        """(N,) sum of both heads' log-odds of a match."""
        both_N2 = self.logits_text_image + self.logits_image_text
        return both_N2[:, 1] - both_N2[:, 0]

    @property
    def head_log_odds(self) -> Tensor:
        """(N, 2) log-odds of a match by the text-image head and by the image-text head."""
        return torch.stack(
            [logits_N2[:, 1] - logits_N2[:, 0] for logits_N2 in (self.logits_text_image, self.logits_image_text)], 1
        )


class CrossEncoder(nn.Module):
    """A stack of one or more cross layers over N pairs picked by index from U query-side and V other-side items."""

    # transformers sets both when checkpointing is enabled: activations are then computed again in the backward pass
    # instead of being kept.
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any] = checkpoint

    def __init__(
        self, layers: int, width: int, heads: int, ffn: int, context_width: int, dropout: float, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            CrossLayer(width=width, heads=heads, ffn=ffn, context_width=context_width, dropout=dropout, eps=eps)
            for _ in range(layers)
        )

    def _run(self, step: Callable[..., Tensor], *values: Any) -> Tensor:
        """The output of one layer's step, checkpointed in training if that is enabled."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return cast(Tensor, self._gradient_checkpointing_func(step, *values))
        return step(*values)

    def forward(
        self,
        states_UTW: Tensor,
        mask_UT: Tensor | None,
        context_VSC: Tensor,
        mask_VS: Tensor | None,
        state_index_N: Tensor | None = None,
        context_index_N: Tensor | None = None,
        whole: int = 0,
        packed: PackedPairs | None = None,
    ) -> CrossOutput:
        """Encode the pairs (state_index[n], context_index[n]); without indices all pairs of an item of each side.

        Args:
            states_UTW, mask_UT: query-side tokens; mask True where a token is real, or None.
            context_VSC, mask_VS: tokens of the other side and their mask.
            state_index_N, context_index_N: which items make each pair.
            whole: M: for the first M pairs, all tokens are computed after the last layer.
            packed: the packing of the same texts, images and pairs; all tokens of the other side must be real.

        Returns:
            The pairs' first tokens (N, W), or (V, U, W) of all pairs.
        """
        if state_index_N is None or context_index_N is None:
            return CrossOutput(self._all_pairs(states_UTW, mask_UT, context_VSC, mask_VS), states_UTW[:0])
        if packed is not None:
            return self._forward_packed(packed, states_UTW, context_VSC)
        # Up to the first cross-attention nothing depends on the other side: items become pairs only after it.
        *before, last = cast(list[CrossLayer], list(self.layer))
        states_UTW = self._run((before or [last])[0].attend_self, states_UTW, mask_UT)
        states, mask = _pick(states_UTW, state_index_N), _pick(mask_UT, state_index_N)
        context_mask = _pick(mask_VS, context_index_N)
        for layer_index, layer in enumerate(before):
            if layer_index:
                states = self._run(layer.attend_self, states, mask)
            states = self._run(_look, states, context_VSC, layer, context_index_N, context_mask)
        keys_values = last.crossattention.keys_values(context_VSC)

        def finish(states: Tensor, keys: Tensor, values: Tensor, rows: slice, tokens: int | None) -> Tensor:
            """The last layer: the first `tokens` tokens of these pairs."""
            asking = states[rows, :tokens]
            if before:
                asking = last.attend_self(states[rows], _pick(mask, rows), tokens)
            seen = _spread(keys, values, context_index_N[rows])
            return last.attend_other(asking, *seen, _pick(context_mask, rows))

        if not whole:
            return CrossOutput(self._run(finish, states, *keys_values, slice(None), 1)[:, 0], states[:0])
        whole_MTW = self._run(finish, states, *keys_values, slice(whole), None)
        others_N1W = self._run(finish, states, *keys_values, slice(whole, None), 1)
        return CrossOutput(torch.cat([whole_MTW[:, 0], others_N1W[:, 0]]), whole_MTW)

    def _all_pairs(
        self, states_UTW: Tensor, mask_UT: Tensor | None, context_VSC: Tensor, mask_VS: Tensor | None
    ) -> Tensor:
        """The first token (V, U, W) of every pair of an item of each side.

        All query-side items ask an item of the other side at once, so that no keys and values are copied; with a
        single layer their first tokens alone do.
        """
        *before, last = cast(list[CrossLayer], list(self.layer))
        count, length = len(context_VSC), states_UTW.shape[1]
        asking = None if before else 1
        states_UTW = self._run((before or [last])[0].attend_self, states_UTW, mask_UT, asking)
        states = states_UTW.flatten(0, 1).expand(count, -1, -1)  # (V, U * T, W)
        pair_mask = None if mask_UT is None else mask_UT.repeat(count, 1)

        def attend_self(states: Tensor, layer: CrossLayer, asking: int | None) -> Tensor:
            rows = layer.attend_self(states.reshape(-1, length, states.shape[-1]), pair_mask, asking)
            return rows.reshape(count, -1, states.shape[-1])

        for layer_index, layer in enumerate(before):
            if layer_index:
                states = self._run(attend_self, states, layer, None)
            states = self._run(_look_at_all, states, context_VSC, layer, mask_VS)
        if before:
            states = self._run(attend_self, states, last, 1)
        return self._run(_look_at_all, states, context_VSC, last, mask_VS)

    def _forward_packed(self, pairs: PackedPairs, texts_UTW: Tensor, images_VSC: Tensor) -> CrossOutput:
        *before, last = cast(list[CrossLayer], list(self.layer))
        texts = self._run((before or [last])[0].attend_self, pairs.texts.pack(texts_UTW), pairs.read_texts)
        states = texts.index_select(0, pairs.tokens)
        for layer_index, layer in enumerate(before):
            if layer_index:
                states = self._run(layer.attend_self, states, pairs.read_pairs)
            states = self._run(_look_packed, states, images_VSC, layer, pairs.read_images)
        if before:
            states = self._run(last.attend_self, states, pairs.read_last, pairs.asking)
        else:
            states = states.index_select(0, pairs.asking)
        states = self._run(_look_packed, states, images_VSC, last, pairs.read_images_last)
        return CrossOutput(*pairs.output(states))


def _look(states: Tensor, context_VSC: Tensor, layer: CrossLayer, index_N: Tensor, mask: Tensor | None) -> Tensor:
    """The second half of a layer, for pairs whose other sides are picked by index."""
    return layer.attend_other(states, *_spread(*layer.crossattention.keys_values(context_VSC), index_N), mask)


def _look_at_all(states: Tensor, context_VSC: Tensor, layer: CrossLayer, mask_VS: Tensor | None) -> Tensor:
    """The second half of a layer, for tokens (V, tokens, W) that ask one item of the other side each."""
    return layer.attend_other(states, *layer.crossattention.keys_values(context_VSC), mask_VS)


def _look_packed(states: Tensor, images_VSC: Tensor, layer: CrossLayer, seen: Attend) -> Tensor:
    """The second half of a layer for packed tokens."""
    return layer.attend_other(states, *layer.crossattention.keys_values(images_VSC), seen)


def _spread(keys: Tensor, values: Tensor, index_N: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (N, H, S, D) of each pair's other side, picked from those of all items (V, H, S, D)."""
    if len(keys) == 1:  # nothing to pick, and nothing is copied
        return keys.expand(len(index_N), -1, -1, -1), values.expand(len(index_N), -1, -1, -1)
    return keys.index_select(0, index_N), values.index_select(0, index_N)


@overload
def _pick(values: Tensor, index: Tensor | slice) -> Tensor: ...
@overload
def _pick(values: None, index: Tensor | slice) -> None: ...
def _pick(values: Tensor | None, index: Tensor | slice) -> Tensor | None:
    if values is None:
        return None
    # Several pairs share an item. The gradient of plain indexing adds them up in an order that depends on the threads;
    # the gradient of index_select adds them up in the order of the pairs, so that runs repeat bit for bit.
    return values.index_select(0, index) if isinstance(index, Tensor) else values[index]
