"""A module that all ranks train together: replicated (DDP) or sharded (FSDP2), and what then differs for a trainer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ccmb.core.choices import Strategy
from ccmb.core.floats import at_least_float32
from ccmb.training.distributed import average_gradients, world

_LOG = logging.getLogger(__name__)
# What DDP calls its broadcast of buffers before each forward pass, in newer and in older releases.
SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class Replicated:
    """Every rank holds all weights; gradients are averaged while the backward pass still runs (DDP)."""

    def __init__(self, module: nn.Module) -> None:
        # Objectives that start later leave weights unused until then. Buffers are equal on all ranks by computation.
        buffers: dict[str, Any] = {SYNC_BUFFERS: False}
        self._ddp = DistributedDataParallel(module, find_unused_parameters=True, **buffers)

    def __call__(self, *arguments: Any) -> Any:
        return self._ddp(*arguments)

    def after_backward(self) -> None:
        """DDP has averaged already."""


class Sharded:
    """Every rank holds a part of each weight, and the whole of a block only while it is computed (FSDP2).

    Args:
        units: blocks that are gathered one at a time; the rest is gathered for the whole step. Each is only ever used
            by calling it.
    """

    def __init__(self, module: nn.Module, units: Iterable[nn.Module]) -> None:
        for tensor in (*module.parameters(), *module.buffers()):  # as DDP does: all start from rank 0's
            dist.broadcast(tensor.detach(), 0)
        mesh = init_device_mesh(next(module.parameters()).device.type, (world().size,))
        for unit in units:
            fully_shard(unit, mesh=mesh)
        # FSDP2 takes no scalars; they stay whole on every rank.
        self._scalars = [parameter for parameter in module.parameters() if parameter.dim() == 0]
        fully_shard(module, mesh=mesh, ignored_params=set(self._scalars))
        self._module = module

    def __call__(self, *arguments: Any) -> Any:
        return self._module(*arguments)

    def after_backward(self) -> None:
        """Average what FSDP2 does not look after."""
        average_gradients(self._scalars)


class SingleProcess:
    """One process."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *arguments: Any) -> Any:
        return self._module(*arguments)

    def after_backward(self) -> None:
        """Nothing to average."""


def wrap(module: nn.Module, strategy: Strategy, units: Iterable[nn.Module]) -> SingleProcess | Replicated | Sharded:
    """The module as a callable that all ranks of the world use together, on the device where it is."""
    if world().size == 1:
        if strategy != "ddp":
            _LOG.warning(
                "training.parallel=%s: one process has nothing to share; start several with torchrun", strategy
            )
        return SingleProcess(module)
    return Replicated(module) if strategy == "ddp" else Sharded(module, units)


def clip_gradients(parameters: Iterable[nn.Parameter], maximum: float) -> Tensor:
    """Scale all gradients, sharded ones too, to a joint norm of at most `maximum`; returns the norm before ()."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    squares = at_least_float32(torch.stack(torch._foreach_norm(local))).square()
    sharded = torch.tensor([isinstance(gradient, DTensor) for gradient in gradients], device=squares.device)
    in_shards = squares[sharded].sum()
    if sharded.any():
        dist.all_reduce(in_shards)
    norm = (squares[~sharded].sum() + in_shards).sqrt()
    torch._foreach_mul_(local, (maximum / (norm + 1e-6)).clamp(max=1.0))
    return norm


def put_together(tensor: Tensor) -> Tensor:
    """A sharded tensor as a whole one on every rank; all must take part. Others come back as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(value: Any) -> Any:
    """Nested dicts and lists with every sharded tensor put together, on the CPU; all ranks must take part."""
    if isinstance(value, DTensor):
        return put_together(value).cpu()
    if isinstance(value, dict):
        return {key: full_state_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full_state_dict(item) for item in value)
    return value


def shard_like(value: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, sharded as `pattern` is."""
    if not isinstance(pattern, DTensor) or isinstance(value, DTensor):
        return value
    value = value.to(pattern.device)
    return cast(Tensor, distribute_tensor(value, pattern.device_mesh, pattern.placements, src_data_rank=None))


def load_module(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a module of whole and sharded ones.

    Raises:
        RuntimeError: names or shapes differ.
    """
    mine = module.state_dict()
    module.load_state_dict({name: shard_like(value, mine.get(name, value)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's whole state; what is as large as its weight is sharded as that is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def like(value: Any, parameter: nn.Parameter) -> Any:
        return shard_like(value, parameter) if isinstance(value, Tensor) and value.dim() else value

    spread = {
        index: {key: like(value, parameters[index]) for key, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": spread})
