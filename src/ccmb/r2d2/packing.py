"""Texts without their padding: the real tokens laid end to end, so that no layer computes a token that is none.

All of a layer but attention works token by token, and so on packed tokens as they are. Attention goes from row to row:
on a GPU in half precision by torch's varlen attention, which reads packed rows; elsewhere rows are padded for the
attention alone, which is a few per cent of a layer's work.

Shapes: N rows (texts or pairs) of at most T tokens, P real tokens in all, W width, H heads of width D, V pictures of S
tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

# Queries (P, H, D) and keys and values, as the maker of the function says, to what is attended to (P, H, D).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the real tokens of padded rows stand. A row without any counts as one of one token.

    Attributes:
        mask: (N, T) True where a token is real.
        positions: (P,) where the real tokens stand among the N * T, in order.
    """

    mask: Tensor
    positions: Tensor

    @staticmethod
    def from_mask(mask_NT: Tensor) -> Packing:
        """Of rows whose real tokens are True or 1. On a GPU this waits for it, since the number of tokens is asked."""
        mask = mask_NT.bool()
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
        return Packing(mask, mask.flatten().nonzero().squeeze(1))

    @property
    def counts(self) -> Tensor:
        """(N,) real tokens of each row."""
        return self.mask.sum(1)

    @property
    def columns(self) -> Tensor:
        """(P,) at which place of its row each token stands."""
        return self.positions % self.mask.shape[1]

    @property
    def firsts(self) -> Tensor:
        """(N,) which of the P tokens is the first of each row."""
        return starts_of(self.counts)[:-1].long()

    def pack(self, padded_NTW: Tensor) -> Tensor:
        """(P, ...) the real tokens of (N, T, ...)."""
        return padded_NTW.flatten(0, 1).index_select(0, self.positions)

    def pad(self, packed_PW: Tensor) -> Tensor:
        """(N, T, ...) with zeros where no token is real."""
        rows, tokens = self.mask.shape
        padded = packed_PW.new_zeros(rows * tokens, *packed_PW.shape[1:]).index_copy(0, self.positions, packed_PW)
        return padded.unflatten(0, (rows, tokens))

    def pick(self, index_M: Tensor) -> tuple[Packing, Tensor]:
        """The packing of M rows of these indices, and which of the P tokens they are made of."""
        picked = Packing.from_mask(self.mask.index_select(0, index_M))
        return picked, picked.pack(self._numbers().index_select(0, index_M))

    def narrow(self, keep_NT: Tensor) -> tuple[Packing, Tensor]:
        """The packing of the rows with fewer tokens, each with its first, and which of the P tokens these are."""
        narrow = Packing.from_mask(self.mask & keep_NT)
        return narrow, narrow.pack(self._numbers())

    def _numbers(self) -> Tensor:
        """(N, T) the number of each real token among the P."""
        return (self.mask.flatten().cumsum(0) - 1).view(self.mask.shape)


def starts_of(counts_N: Tensor) -> Tensor:
    """(N + 1,) int32, where runs of so many tokens start, and where the last ends."""
    return F.pad(counts_N.cumsum(0), (1, 0)).to(torch.int32)


def padded_right(input_ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and mask with each row's padding on its left, if there is any, moved to its end."""
    leading_B = (mask_BT.cumsum(1) == 0).sum(1)
    length = mask_BT.shape[1]
    source_BT = (torch.arange(length, device=mask_BT.device) + leading_B[:, None]) % max(1, length)
    return input_ids_BT.gather(1, source_BT), mask_BT.gather(1, source_BT)


def mean_state(states_BTW: Tensor, mask_BT: Tensor | None) -> Tensor:
    """(B, W) mean of the states of each row's real tokens; a row without any counts as one of one token."""
    if mask_BT is None:
        return states_BTW.mean(1)
    real_BT = torch.cat([torch.ones_like(mask_BT[:, :1]), mask_BT[:, 1:]], 1).bool()
    summed_BW = states_BTW.masked_fill(~real_BT[:, :, None], 0.0).sum(1)
    return summed_BW / real_BT.sum(1)[:, None].to(states_BTW.dtype)


def row_attention(queries: Packing, context: Packing, dropout: float = 0.0) -> Attend:
    """Attention of the packed rows of `queries` to the rows of `context`, whose keys and values are (P, H, D) too."""

    @torch.compiler.disable
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not dropout and has_varlen(query):  # varlen attention has no dropout
            longest = queries.mask.shape[1]
            starts = starts_of(queries.counts), starts_of(context.counts)
            return varlen_attention(query, key, value, *starts, longest, longest)
        padded = queries.pad(query), context.pad(key), context.pad(value)
        q, k, v = (tokens.transpose(1, 2) for tokens in padded)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask[:, None, None, :], dropout_p=dropout)
        return queries.pack(mixed.transpose(1, 2))

    return attend


def picture_attention(queries: Packing, picture_N: Tensor, pictures: int) -> Attend:
    """Attention of packed rows to pictures, whose keys and values are (V, H, S, D) and nowhere copied.

    Args:
        picture_N: each row's picture, ascending: the tokens of all rows of a picture ask it together.
        pictures: V.
    """
    counts_V = torch.zeros(pictures, dtype=torch.long, device=picture_N.device)
    counts_V = counts_V.index_add(0, picture_N, queries.counts)
    sizes = counts_V.tolist()

    @torch.compiler.disable
    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if has_varlen(query):
            tokens = keys.shape[2]
            key, value = (states.transpose(1, 2).flatten(0, 1) for states in (keys, values))
            starts = starts_of(counts_V), starts_of(torch.full_like(counts_V, tokens))
            return varlen_attention(query, key, value, *starts, max(sizes), tokens)
        return _picture_by_picture(query, keys, values, sizes)

    return attend


def _picture_by_picture(query_PHD: Tensor, keys: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """The same without varlen attention: a call for each picture, or one for all that are asked by equally many."""
    if len({*sizes}) == 1:
        asking = query_PHD.unflatten(0, (len(sizes), -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(asking, keys, values).transpose(1, 2).flatten(0, 1)
    mixed = [
        F.scaled_dot_product_attention(asking.transpose(0, 1)[None], key[None], value[None])[0].transpose(0, 1)
        for asking, key, value in zip(query_PHD.split(list(sizes)), keys.unbind(), values.unbind(), strict=True)
        if len(asking)
    ]
    return torch.cat(mixed)


def has_varlen(query: Tensor) -> bool:
    """Whether torch's varlen attention takes such queries."""
    return query.is_cuda and query.dtype in HALF and query.shape[-1] % 8 == 0 and _gpu_has_varlen(query.device)


@cache
def _gpu_has_varlen(device: torch.device) -> bool:
    """It is of torch 2.10 and later, and of GPUs since Ampere."""
    has_module = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return has_module and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, query_starts: Tensor, key_starts: Tensor, most_queries: int, most: int
) -> Tensor:
    """Attention (P, H, D) of runs of packed tokens to runs of others; where each starts, and tokens of the longest."""
    from torch.nn.attention.varlen import varlen_attn

    return cast(Tensor, varlen_attn(query, key, value, query_starts, key_starts, most_queries, most))


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """N pairs of packed texts with pictures, ordered by picture, and how their tokens attend.

    Attributes:
        texts: the packing of the U texts.
        tokens: which of the texts' tokens those of the pairs are, one pair after the other.
        asking: which of the pairs' tokens the last layer computes.
        last: the packing of these.
        back: (N,) where each pair stands in the order by picture.
        whole: of how many pairs all tokens are wanted.
        read_texts, read_pairs, read_last: self-attention, of the texts, of the pairs and in the last layer.
        read_pictures, read_pictures_last: attention to the pictures, and in the last layer.
    """

    texts: Packing
    tokens: Tensor
    asking: Tensor
    last: Packing
    back: Tensor
    whole: int
    read_texts: Attend
    read_pairs: Attend
    read_last: Attend
    read_pictures: Attend
    read_pictures_last: Attend

    @staticmethod
    def from_indices(
        mask_UT: Tensor, pictures: int, text_index_N: Tensor, picture_index_N: Tensor, whole: int
    ) -> PackedPairs:
        """Of texts whose real tokens the mask tells, and so many pictures. On a GPU this waits for it."""
        order = picture_index_N.argsort(stable=True)
        texts = Packing.from_mask(mask_UT)
        pairs, tokens = texts.pick(text_index_N[order])
        last, asking = pairs.narrow((order < whole)[:, None].expand_as(pairs.mask))
        pictures_N = picture_index_N[order]
        return PackedPairs(
            texts, tokens, asking, last, order.argsort(), whole,
            row_attention(texts, texts), row_attention(pairs, pairs), row_attention(last, pairs),
            picture_attention(pairs, pictures_N, pictures), picture_attention(last, pictures_N, pictures),
        )  # fmt: skip

    def output(self, states_PW: Tensor) -> tuple[Tensor, Tensor]:
        """Of the states that the last layer computes the first token of every pair (N, W), and all of the first `whole`
        pairs (whole, T, W)."""
        first = states_PW.index_select(0, self.last.firsts.index_select(0, self.back))
        if not self.whole:
            return first, states_PW.new_empty(0, self.last.mask.shape[1], states_PW.shape[1])
        return first, self.last.pad(states_PW).index_select(0, self.back[: self.whole])
