"""The cross encoder: BERT layers whose tokens also attend to the states of the other tower.

Shapes: N pairs, U items of the query side (T tokens, width W), V items of the other side (S tokens, width C),
H heads of width D. Parameter names are BERT's, so that official and BERT checkpoints load layer by layer.

A picture usually stands in several pairs (its match and its hard negatives, or many candidates when ranking), so what
depends on one side alone is computed once per item and then picked by index: keys and values of the other side in
every layer, and the self-attention of the first layer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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
        batch, tokens, _ = states_BTW.shape
        return states_BTW.view(batch, tokens, self.heads, -1).transpose(1, 2)

    def keys_values(self, context_VSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the context, each (V, H, S, D)."""
        return self._split(self.key(context_VSC)), self._split(self.value(context_VSC))

    def forward(self, states_NTW: Tensor, keys: Tensor, values: Tensor, mask_NS: Tensor | None) -> Tensor:
        """Attend: (N, T, W). `mask_NS` is True (or 1) where a context token may be seen."""
        mask = None if mask_NS is None else mask_NS.bool()[:, None, None, :]
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

    def attend_self(self, states_NTW: Tensor, mask_NT: Tensor | None) -> Tensor:
        return self.attention(states_NTW, *self.attention.keys_values(states_NTW), mask_NT)

    def attend_other(self, states_NTW: Tensor, keys: Tensor, values: Tensor, mask_NS: Tensor | None) -> Tensor:
        states_NTW = self.crossattention(states_NTW, keys, values, mask_NS)
        return self.output(self.intermediate(states_NTW), states_NTW)


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
    ) -> Tensor:
        """Encode the pairs (state_index[n], context_index[n]).

        Args:
            states_UTW, mask_UT: query-side tokens; mask True where a token is real, or None.
            context_VSC, mask_VS: tokens of the other side and their mask.
            state_index_N, context_index_N: which items make each pair.

        Returns:
            (N, T, W) states of the query side after all layers.
        """
        states, mask = states_UTW, mask_UT
        mask_NS = None if mask_VS is None else mask_VS.index_select(0, context_index_N)
        for depth, layer in enumerate(self.layer):
            assert isinstance(layer, CrossLayer)
            states = layer.attend_self(states, mask)
            if depth == 0:  # until here nothing of the other side has come in: items become pairs
                states = states.index_select(0, state_index_N)
                mask = None if mask is None else mask.index_select(0, state_index_N)
            keys, values = layer.crossattention.keys_values(context_VSC)
            keys, values = keys.index_select(0, context_index_N), values.index_select(0, context_index_N)
            states = layer.attend_other(states, keys, values, mask_NS)
        return states
