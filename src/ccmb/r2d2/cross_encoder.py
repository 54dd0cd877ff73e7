"""The cross encoder: BERT layers whose tokens also attend to the states of the other tower.

Shapes: N pairs, U items of the query side (T tokens, width W), V items of the other side (S tokens, width C),
H heads of width D. Parameter names are BERT's, so that official and BERT checkpoints load layer by layer.

A picture usually stands in several pairs (its match and its hard negatives, or many candidates when ranking), so what
depends on one side alone is computed once per item and then picked by index: keys and values of the other side in
every layer, and the self-attention of the first layer. The match heads read the first token alone, so the last layer
computes the other tokens only of those pairs for which they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.r2d2.buckets import Bucket, put_back


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

    def _split(self, states_BTW: Tensor) -> Tensor:
        width = states_BTW.shape[-1]
        return states_BTW.unflatten(-1, (self.heads, width // self.heads)).transpose(1, 2)

    def keys_values(self, context_VSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the context, each (V, H, S, D)."""
        return self._split(self.key(context_VSC)), self._split(self.value(context_VSC))

    def forward(self, states_NTW: Tensor, keys: Tensor, values: Tensor, mask_NS: Tensor | None) -> Tensor:
        """Attend: (N, T, W). `mask_NS` is True (or 1) where a context token may be seen; a mask of four dimensions,
        which may differ from token to token, is taken as it is."""
        mask = None if mask_NS is None else mask_NS.bool()
        if mask is not None and mask.dim() == 2:
            mask = mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(self._split(self.query(states_NTW)), keys, values, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)


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

    def keys_values(self, context_VSC: Tensor) -> tuple[Tensor, Tensor]:
        return self.self.keys_values(context_VSC)

    def forward(self, states_NTW: Tensor, keys: Tensor, values: Tensor, mask_NS: Tensor | None) -> Tensor:
        return self.output(self.self(states_NTW, keys, values, mask_NS), states_NTW)


class Intermediate(nn.Module):
    """The first half of BERT's feed-forward layer."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, ffn)

    def forward(self, states_NTW: Tensor) -> Tensor:
        return F.gelu(self.dense(states_NTW))


class CrossLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, heads: int, ffn: int, context_width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.attention = AttentionBlock(width, heads, width, dropout, eps)
        self.crossattention = AttentionBlock(width, heads, context_width, dropout, eps)
        self.intermediate = Intermediate(width, ffn)
        self.output = ResidualOutput(ffn, width, dropout, eps)

    def attend_self(self, states_NTW: Tensor, mask_NT: Tensor | None, tokens: int | None = None) -> Tensor:
        """Self-attention of the first `tokens` tokens (None: of all) to all of them."""
        return self.attention(states_NTW[:, :tokens], *self.attention.keys_values(states_NTW), mask_NT)

    def attend_other(self, states_NTW: Tensor, keys: Tensor, values: Tensor, mask_NS: Tensor | None) -> Tensor:
        """Cross-attention to the other side, then the feed-forward layer."""
        states_NTW = self.crossattention(states_NTW, keys, values, mask_NS)
        return self.output(self.intermediate(states_NTW), states_NTW)


@dataclass(frozen=True, slots=True)
class CrossOutput:
    """States after the last layer.

    Attributes:
        first: (N, W) the first token of every pair.
        whole: (M, T, W) all tokens of the first M pairs, if they were asked for.
    """

    first: Tensor
    whole: Tensor


@dataclass(frozen=True, slots=True)
class RankOutput:
    """What the cross encoders say of N pairs.

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
        return torch.stack([of[:, 1] - of[:, 0] for of in (self.logits_text_image, self.logits_image_text)], 1)


class CrossEncoder(nn.Module):
    """A stack of one or more cross layers over N pairs picked by index from U query-side and V other-side items."""

    def __init__(
        self, layers: int, width: int, heads: int, ffn: int, context_width: int, dropout: float, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(CrossLayer(width, heads, ffn, context_width, dropout, eps) for _ in range(layers))

    def forward(
        self,
        states_UTW: Tensor,
        mask_UT: Tensor | None,
        context_VSC: Tensor,
        mask_VS: Tensor | None,
        state_index_N: Tensor,
        context_index_N: Tensor,
        whole: int = 0,
        buckets: Sequence[Bucket] = (),
    ) -> CrossOutput:
        """Encode the pairs (state_index[n], context_index[n]).

        Args:
            states_UTW, mask_UT: query-side tokens; mask True where a token is real, or None.
            context_VSC, mask_VS: tokens of the other side and their mask.
            state_index_N, context_index_N: which items make each pair.
            whole: M, of how many pairs (the first ones) all tokens are wanted after the last layer.
            buckets: of query-side items that are computed together, each cut to its longest; without them all are.
        """
        layers = cast(list[CrossLayer], list(self.layer))
        groups = [
            self._pair(states_UTW, mask_UT, mask_VS, state_index_N, context_index_N, bucket)
            for bucket in buckets or (None,)
        ]
        for layer in layers[:-1]:
            keys, values = layer.crossattention.keys_values(context_VSC)
            for group in groups:
                if layer is not layers[0]:
                    group.states = layer.attend_self(group.states, group.mask)
                group.states = layer.attend_other(group.states, *group.seen(keys, values), group.context_mask)
        keys, values = layers[-1].crossattention.keys_values(context_VSC)
        if not buckets:
            return self._finish(groups[0], keys, values, whole)
        asked = [int((group.pairs < whole).sum()) for group in groups]
        ends = [self._finish(group, keys, values, count) for group, count in zip(groups, asked, strict=True)]
        rows = [group.pairs for group in groups]
        return CrossOutput(
            put_back([end.first for end in ends], rows),
            put_back([end.whole for end in ends], [r[:count] for r, count in zip(rows, asked, strict=True)],
                     states_UTW.shape[1]),
        )  # fmt: skip

    def _pair(
        self,
        states_UTW: Tensor,
        mask_UT: Tensor | None,
        mask_VS: Tensor | None,
        state_index_N: Tensor,
        context_index_N: Tensor,
        bucket: Bucket | None,
    ) -> _Pairs:
        """The pairs of a bucket after the self-attention of the first layer."""
        pairs = torch.arange(len(state_index_N), device=state_index_N.device)
        if bucket is not None:
            pairs, state_index_N = bucket.pairs(state_index_N)
            context_index_N = context_index_N[pairs]
            states_UTW = states_UTW.index_select(0, bucket.rows)[:, : bucket.tokens]
            mask_UT = None if mask_UT is None else mask_UT[bucket.rows, : bucket.tokens]
        # Until the first cross-attention nothing of the other side has come in: items become pairs here.
        states_UTW = cast(CrossLayer, self.layer[0]).attend_self(states_UTW, mask_UT)
        return _Pairs(
            pairs, _pick(states_UTW, state_index_N), _pick(mask_UT, state_index_N),
            context_index_N, _pick(mask_VS, context_index_N),
        )  # fmt: skip

    def _finish(self, group: _Pairs, keys: Tensor, values: Tensor, whole: int) -> CrossOutput:
        """The last layer: all tokens of the first `whole` pairs, the first token of the rest."""
        last = cast(CrossLayer, self.layer[-1])

        def rows_of(rows: slice, tokens: int | None) -> Tensor:
            states = group.states[rows, :tokens]
            if len(self.layer) > 1:
                states = last.attend_self(group.states[rows], _pick(group.mask, rows), tokens)
            return last.attend_other(states, *group.seen(keys, values, rows), _pick(group.context_mask, rows))

        if not whole:
            return CrossOutput(rows_of(slice(None), 1)[:, 0], group.states[:0])
        whole_MTW, rest_N1W = rows_of(slice(whole), None), rows_of(slice(whole, None), 1)
        return CrossOutput(torch.cat([whole_MTW[:, 0], rest_N1W[:, 0]]), whole_MTW)


@dataclass(slots=True)
class _Pairs:
    """Pairs on their way through the layers.

    Attributes:
        pairs: (P,) which of the N pairs.
        states, mask: (P, T, W) and (P, T).
        context_index, context_mask: (P,) and (P, S) the other side's items.
    """

    pairs: Tensor
    states: Tensor
    mask: Tensor | None
    context_index: Tensor
    context_mask: Tensor | None

    def seen(self, keys: Tensor, values: Tensor, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Keys and values of each pair's other side."""
        index = self.context_index[rows]
        if len(keys) == 1:  # nothing to pick, and nothing is copied
            return keys.expand(len(index), -1, -1, -1), values.expand(len(index), -1, -1, -1)
        return keys.index_select(0, index), values.index_select(0, index)


@overload
def _pick(values: Tensor, index: Tensor | slice) -> Tensor: ...
@overload
def _pick(values: None, index: Tensor | slice) -> None: ...
def _pick(values: Tensor | None, index: Tensor | slice) -> Tensor | None:
    if values is None:
        return None
    # Several pairs share an item. The gradient of plain indexing adds them up in an order that the threads decide;
    # that of index_select in the order of the pairs, so that runs repeat bit for bit.
    return values.index_select(0, index) if isinstance(index, Tensor) else values[index]
