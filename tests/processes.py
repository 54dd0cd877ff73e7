"""Several processes on loopback that run one function, as torchrun would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from ccmb.training.distributed import process_group


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
