"""Exchange of rows between ranks: each rank receives only the rows that it needs, each once.

A rank may need few rows of the others, and large ones, such as the token states of hard negatives. It asks their owners
for them, and receives and holds no others; `gather` would bring it the rows of all ranks.

Shapes: R rows of this rank, B = R * ranks rows of all in rank order, K wanted rows, D distinct ones among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ccmb.training.distributed import world


@dataclass(frozen=True, slots=True)
class Exchange:
    """A plan of which rank sends which rows to whom, for all tensors of these rows; see `plan_exchange`.

    Attributes:
        index: (K,) indices of the wanted rows in the result of `fetch`.
        outgoing: indices of this rank's rows to send, in order of the ranks that want them; a row may go to several.
        sent, received: number of rows that go to each rank and come from each, this one included.
    """

    index: Tensor
    outgoing: Tensor
    sent: list[int]
    received: list[int]

    def fetch(self, rows: Tensor) -> Tensor:
        """(D, ...) the distinct wanted rows in the order of the global batch, with gradient to their owners.

        All ranks call it together, each with its rows (R, ...). A single process gets its own rows unchanged.
        """
        if world().size == 1:
            return rows
        if rows.dtype == torch.bool:  # not all backends send it
            return self.fetch(rows.to(torch.uint8)).bool()
        fetched: Tensor = _Fetch.apply(rows, self)
        return fetched


def plan_exchange(wanted_K: Tensor, rows: int) -> Exchange:
    """Plan the exchange that brings this rank its wanted rows; all ranks call it together.

    Args:
        wanted_K: indices into the global batch, in any order, repeated or own ones too; it may be empty.
        rows: R, on all ranks the same.
    """
    ranks = world().size
    if ranks == 1:
        return Exchange(wanted_K, wanted_K, [len(wanted_K)], [len(wanted_K)])
    wants_B = torch.zeros(ranks * rows, dtype=torch.uint8, device=wanted_K.device).index_fill_(0, wanted_K, 1)
    asked_B = torch.empty_like(wants_B)  # by each rank of this one's rows
    dist.all_to_all_single(asked_B, wants_B)
    # Sizes must be known on the host, which waits for the device here.
    sent, received = torch.stack([asked_B, wants_B]).view(2, ranks, rows).sum(2).tolist()
    return Exchange((wants_B.cumsum(0) - 1)[wanted_K], asked_B.nonzero().squeeze(1) % rows, sent, received)


class _Fetch(torch.autograd.Function):
    """Sends each row to all ranks that want it; the backward pass sums their gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange, ctx.count = exchange, len(rows)
        fetched = rows.new_empty((sum(exchange.received), *rows.shape[1:]))
        # What a rank sends itself is copied where it is.
        dist.all_to_all_single(fetched, rows.index_select(0, exchange.outgoing), exchange.received, exchange.sent)
        return fetched

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        exchange, (gradient,) = ctx.exchange, gradients
        returned = gradient.new_empty((len(exchange.outgoing), *gradient.shape[1:]))
        dist.all_to_all_single(returned, gradient.contiguous(), exchange.sent, exchange.received)
        own = gradient.new_zeros((ctx.count, *gradient.shape[1:]))
        # One rank after the other, none of which has a row twice: sums have one order on any device.
        for index, part in zip(exchange.outgoing.split(exchange.sent), returned.split(exchange.sent), strict=True):
            own.index_add_(0, index, part)
        return own, None
