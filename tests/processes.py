"""Several processes on loopback that run one function, as torchrun would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ccmb.training.distributed import process_group, world


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def run_in_processes(count: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` ranks; it must be importable, its results tensors and
    plain values."""
    multiprocessing.spawn(_rank, (count, free_port(), function, folder, arguments), nprocs=count)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(count)]


class Arrivals(TorchDispatchMode):
    """What collectives bring this rank from others while this is entered: (elements, dtype) of each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, torch.dtype]] = []

    def elements(self, dtype: torch.dtype) -> int:
        """Of all tensors of a type."""
        return sum(count for count, of in self.seen if of == dtype)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        if function.namespace == "c10d":
            name, first = function.overloadpacket.__name__, arguments[0]
            if name == "alltoall_base_":
                splits = arguments[3]  # of the output, dimension 0; none where all are equal
                own = splits[world().rank] * first[:1].numel() if splits else first.numel() // world().size
                self.seen.append((first.numel() - own, first.dtype))
            elif name == "_allgather_base_":
                self.seen.append((first.numel() - arguments[1].numel(), first.dtype))
            else:
                self.seen += [(part.numel(), part.dtype) for part in ([first] if isinstance(first, Tensor) else first)]
        return result


def _rank(
    rank: int, count: int, port: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    with process_group():
        torch.save(function(*arguments), folder / f"rank-{rank}.pt")
