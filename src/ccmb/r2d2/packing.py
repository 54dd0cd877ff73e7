"""Texts without their padding: the real tokens are laid end to end, so that no layer computes padding.

All of a layer but attention works token by token, and so works on packed tokens unchanged. Attention works row by row.
On a GPU in half precision, torch's varlen attention reads packed rows. Elsewhere the rows are padded for the attention
alone, which is a few per cent of a layer's work.

Shapes: N rows (texts or pairs) of at most T tokens, P real tokens in all, W width, H heads of width D, V images of S
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

# Attention of queries (P, H, D) to keys and values, whose shapes the maker of the function defines; gives (P, H, D).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Packing:
    """The positions of the real tokens of padded rows. A row without any counts as a row of one token.

    Attributes:
        mask: (N, T) True where a token is real.
        positions: (P,) the indices of the real tokens among all N * T, in order.
    """

    mask: Tensor
    positions: Tensor

    @staticmethod
    def from_mask(mask_NT: Tensor) -> Packing:
        """The packing of rows whose real tokens are True or 1 in the mask. It waits for a GPU, to count the tokens."""
        mask = mask_NT.bool()
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
        return Packing(mask, mask.flatten().nonzero().squeeze(1))

    @property
    def counts(self) -> Tensor:
        """(N,) real tokens of each row."""
        return self.mask.sum(1)

    @property
    def columns(self) -> Tensor:
        """(P,) the position of each token in its row."""
        return self.positions % self.mask.shape[1]

    @property
    def firsts(self) -> Tensor:
        """(N,) the index of each row's first token among the P tokens."""
        return starts_of(self.counts)[:-1].long()

    def pack(self, padded_NTW: Tensor) -> Tensor:
        """(P, ...) the real tokens of padded rows (N, T, ...)."""
        return padded_NTW.flatten(0, 1).index_select(0, self.positions)

    def pad(self, packed_PW: Tensor) -> Tensor:
        """(N, T, ...) padded rows of packed tokens, with zeros as padding."""
        rows, tokens = self.mask.shape
        padded = packed_PW.new_zeros(rows * tokens, *packed_PW.shape[1:]).index_copy(0, self.positions, packed_PW)
        return padded.unflatten(0, (rows, tokens))

    def pick(self, index_M: Tensor) -> tuple[Packing, Tensor]:
        """The packing of the M indexed rows, and the indices of their tokens among the P tokens."""
        picked = Packing.from_mask(self.mask.index_select(0, index_M))
        return picked, picked.pack(self._numbers().index_select(0, index_M))

    def narrow(self, keep_NT: Tensor) -> tuple[Packing, Tensor]:
        """The packing of the rows with only the kept tokens, and the indices of these among the P tokens.

        The first token of each row is always kept.
        """
        narrow = Packing.from_mask(self.mask & keep_NT)
        return narrow, narrow.pack(self._numbers())

    def _numbers(self) -> Tensor:
        """(N, T) the index of each real token among the P tokens."""
        return (self.mask.flatten().cumsum(0) - 1).view(self.mask.shape)


def starts_of(counts_N: Tensor) -> Tensor:
    """(N + 1,) int32: the starts of consecutive runs with these counts of tokens, and the end of the last run."""
    return F.pad(counts_N.cumsum(0), (1, 0)).to(torch.int32)


def padded_right(input_ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and mask with padding on the left of a row moved to its end."""
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
    """Attention of each packed row of `queries` to the same row of `context`, with keys and values (P, H, D)."""

    @torch.compiler.disable
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not dropout and has_varlen(query):  # varlen attention has no dropout
            longest = queries.mask.shape[1]
            return varlen_attention(
                query,
                key,
                value,
                query_starts=starts_of(queries.counts),
                key_starts=starts_of(context.counts),
                max_queries=longest,
                max_keys=longest,
            )
        padded = queries.pad(query), context.pad(key), context.pad(value)
        q, k, v = (tokens.transpose(1, 2) for tokens in padded)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask[:, None, None, :], dropout_p=dropout)
        return queries.pack(mixed.transpose(1, 2))

    return attend


def image_attention(queries: Packing, image_N: Tensor, images: int) -> Attend:
    """Attention of packed rows to images, with keys and values (V, H, S, D) that are never copied.

    Args:
        image_N: each row's image, ascending: the tokens of all rows of an image attend to it together.
        images: V.
    """
    counts_V = torch.zeros(images, dtype=torch.long, device=image_N.device)
    counts_V = counts_V.index_add(0, image_N, queries.counts)
    sizes = counts_V.tolist()

    @torch.compiler.disable
    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if has_varlen(query):
            tokens = keys.shape[2]
            key, value = (states.transpose(1, 2).flatten(0, 1) for states in (keys, values))
            return varlen_attention(
                query,
                key,
                value,
                query_starts=starts_of(counts_V),
                key_starts=starts_of(torch.full_like(counts_V, tokens)),
                max_queries=max(sizes),
                max_keys=tokens,
            )
        return _image_by_image(query, keys, values, sizes)

    return attend


def _image_by_image(query_PHD: Tensor, keys: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Attention to images without varlen attention: a call for each image, or a single one.

    A single call is enough if every image has equally many queries.
    """
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
    """Whether torch (2.10 or later) and the GPU (Ampere or later) have varlen attention."""
    has_module = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return has_module and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    query_starts: Tensor,
    key_starts: Tensor,
    max_queries: int,
    max_keys: int,
) -> Tensor:
    """Attention (P, H, D) of runs of packed tokens to other such runs.

    Args:
        query_starts, key_starts: see `starts_of`.
        most_queries, most: the number of tokens of the longest run of queries and of keys.
    """
    from torch.nn.attention.varlen import varlen_attn

    return cast(Tensor, varlen_attn(query, key, value, query_starts, key_starts, max_queries, max_keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPairs:
    """N pairs of packed texts with images, ordered by image, and the attention of their tokens.

    Attributes:
        texts: the packing of the U texts.
        tokens: for each token of the pairs, its index among the texts' tokens; pair after pair.
        asking: indices of the pairs' tokens that the last layer computes.
        last: the packing of these tokens.
        back: (N,) the position of each pair in the order by image.
        whole: number of pairs whose tokens are all computed by the last layer.
        read_texts, read_pairs, read_last: self-attention, of the texts, of the pairs and in the last layer.
        read_pictures, read_pictures_last: attention to the images, in all other layers and in the last layer.
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
    read_images: Attend
    read_images_last: Attend

    @staticmethod
    def from_indices(
        mask_UT: Tensor, images: int, text_index_N: Tensor, image_index_N: Tensor, whole: int
    ) -> PackedPairs:
        """Pack the pairs (text_index[n], picture_index[n]). It waits for a GPU.

        Args:
            mask_UT: True or 1 where a text's token is real.
            images: the number V of images.
            whole: see `PackedPairs`.
        """
        order = image_index_N.argsort(stable=True)
        texts = Packing.from_mask(mask_UT)
        pairs, tokens = texts.pick(text_index_N[order])
        last, asking = pairs.narrow((order < whole)[:, None].expand_as(pairs.mask))
        images_N = image_index_N[order]
        return PackedPairs(
            texts=texts,
            tokens=tokens,
            asking=asking,
            last=last,
            back=order.argsort(),
            whole=whole,
            read_texts=row_attention(texts, texts),
            read_pairs=row_attention(pairs, pairs),
            read_last=row_attention(last, pairs),
            read_images=image_attention(pairs, images_N, images),
            read_images_last=image_attention(last, images_N, images),
        )

    def output(self, states_PW: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's states: the first token of every pair (N, W), and all tokens of the first `whole` pairs.

        The latter are (whole, T, W).
        """
        first = states_PW.index_select(0, self.last.firsts.index_select(0, self.back))
        if not self.whole:
            return first, states_PW.new_empty(0, self.last.mask.shape[1], states_PW.shape[1])
        return first, self.last.pad(states_PW).index_select(0, self.back[: self.whole])
