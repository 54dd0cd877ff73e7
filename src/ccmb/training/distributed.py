"""Several processes as one: rows of a global batch spread over ranks, gathered with gradient and averaged exactly.

A run under torchrun is a world of several ranks; without it the world is one process and nothing here communicates.
Rank r holds rows r * R .. (r + 1) * R - 1 of a global batch, so gathering keeps the order of the batch. Whatever is
averaged over samples is a mean over the global batch, and gradients are averaged over ranks: N processes compute what
one process computes on the joined batch.

Shapes: R rows of this rank, B = R * ranks rows of all, in rank order.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ccmb.core.errors import CcmbError, one_line

BUCKET_BYTES = 25 * 2**20
# Under their names in newer releases, or in older ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True, slots=True)
class World:
    """How many processes train together, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Where the `count` rows of this rank stand among those of all."""
        return slice(self.rank * count, (self.rank + 1) * count)


def world() -> World:
    """The world that this process has joined; one process alone if none."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


def launched() -> bool:
    """Whether torchrun (or a launcher like it) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(timeout_minutes: float = 30) -> Iterator[World]:
    """Join the world that torchrun describes in the environment: NCCL on GPUs, gloo on CPUs. Leave it at the end.

    Raises:
        CcmbError: the other processes cannot be reached.
    """
    if not launched() or dist.is_initialized():
        yield world()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=timeout_minutes))
    except (RuntimeError, ValueError) as error:
        raise CcmbError(f"the processes of the run do not find each other ({one_line(error)})") from None
    try:
        yield world()
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """Rows of all ranks; backward, the gradients that all ranks have for this rank's rows are added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = rows.shape[0]
        gathered = rows.new_empty((rows.shape[0] * world().size, *rows.shape[1:]))
        _all_gather(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        if dist.get_backend() == "nccl":
            own = gradient.new_empty((ctx.count, *gradient.shape[1:]))
            _reduce_scatter(own, gradient)
            return own
        dist.all_reduce(gradient)
        return gradient[world().rows(ctx.count)]


def gather(rows: Tensor) -> Tensor:
    """(B, ...) the rows of all ranks in rank order, with gradient to every rank's own; all ranks have as many."""
    if world().size == 1:
        return rows
    if rows.dtype == torch.bool:  # which NCCL and gloo do not send
        return gather(rows.to(torch.uint8)).bool()
    return _Gather.apply(rows) if rows.requires_grad else _Gather.forward(_Context(), rows)


class _Context:
    """Stands in for autograd's where nothing is differentiated."""

    count: int


def rank_slice_of(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """This rank's part of `draw(B)`: chance that a row owes to its place in the global batch alone.

    All ranks must hand in generators of one state, and call in one order.
    """
    return draw(rows * world().size)[world().rows(rows)]


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over ranks, without gradient."""
    if world().size == 1:
        return value.detach()
    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed


def all_reduce_max(value: int) -> int:
    """The largest of all ranks' numbers."""
    if world().size == 1:
        return value
    found = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def barrier() -> None:
    """Wait until all ranks are here."""
    if world().size > 1:
        dist.barrier()


def global_mean(summed: Tensor, count: Tensor) -> Tensor:
    """This rank's share (scalar) of a mean over the global batch; 0 where nothing is counted.

    The mean over ranks of what is returned, and with it of its gradient, is the sum over all ranks of `summed` by that
    of `count`. A mean of the ranks' own means would be another number where they count unequally many.
    """
    return summed * world().size / all_reduce_sum(count).clamp(min=torch.finfo(torch.float32).tiny)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks; for a backward pass that DDP did not attend."""
    if world().size == 1:
        return
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:  # of an objective that has not started, on all ranks alike
            continue
        if bucket and (size > BUCKET_BYTES or bucket[0].dtype != parameter.dtype):
            _average(bucket)
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        _average(bucket)


def _average(bucket: list[nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world().size
    parts = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
