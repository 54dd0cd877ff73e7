"""Processes of their own: several ranks on loopback that run one function or command, or one that may be killed.

A new interpreter would import for seven seconds what it needs; here each is forked from one that has, and holds no
more than that. Unlike forks of the tests' own process they take over no thread and nothing that a test has made, but
for torch's default type of floats: where a test computes in float64, see `exact`, so do they.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ccmb.cli import main as cli
from ccmb.training.distributed import barrier, process_group, world

_SECONDS = 600  # after which a process is given up


class Ended(NamedTuple):
    """Exit code of a process, -9 if it was killed, and what it said on stderr."""

    code: int
    err: str


@cache
def forking() -> ForkServerContext:
    """Where processes come from; the one that they are forked from starts with the first call."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Python 3.11 hands it no path to import from
        forkserver.ensure_running()
    return context


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def run_in_processes(count: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` ranks; it must be importable, its results tensors and
    plain values."""
    forking()
    multiprocessing.start_processes(
        _rank,
        (count, free_port(), function, folder, arguments, torch.get_default_dtype()),
        nprocs=count,
        start_method="forkserver",
    )
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(count)]


def run_in_a_process(function: Callable[..., object], *arguments: Any) -> Ended:
    """How a process ends that runs `function(*arguments)`, which must be importable."""
    [ended] = _run([(function, arguments)])
    return ended


def ccmb(*words: object, prepare: Callable[[], None] | None = None, processes: int = 1) -> Ended:
    """How `ccmb` with these words ends in a process of its own, or the first that fails of several ranks.

    Args:
        prepare: called before; it must be importable, or a `partial` of what is.
    """
    argv = ["ccmb", *map(str, words)]
    if processes == 1:
        return run_in_a_process(_command, argv, prepare, {})
    port = free_port()
    ended = _run([(_command, (argv, prepare, _as_rank(rank, processes, port))) for rank in range(processes)])
    return next((one for one in ended if one.code), ended[0])


def _run(calls: Sequence[tuple[Callable[..., object], tuple[Any, ...]]]) -> list[Ended]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(number) for number in range(len(calls))]
        started = [
            forking().Process(
                target=_apart, args=(function, arguments, path, torch.get_default_dtype(), torch.get_num_threads())
            )
            for (function, arguments), path in zip(calls, outputs, strict=True)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(_SECONDS)
        late = [process for process in started if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        assert not late, f"no end after {_SECONDS} seconds"
        return [
            Ended(process.exitcode or 0, path.read_text(encoding="utf-8"))
            for process, path in zip(started, outputs, strict=True)
        ]


def _apart(
    function: Callable[..., object], arguments: tuple[Any, ...], output: Path, dtype: torch.dtype, threads: int
) -> None:
    for number, path in ((1, os.devnull), (2, str(output))):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    _as_a_new_interpreter()
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)  # another number of threads adds in another order
    function(*arguments)


def _command(argv: list[str], prepare: Callable[[], None] | None, environment: dict[str, str]) -> None:
    os.environ |= environment
    sys.argv = argv
    if prepare is not None:
        prepare()
    cli.main()


class Arrivals(TorchDispatchMode):
    """What collectives bring this rank from others while this is entered: (elements, dtype) of each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, torch.dtype]] = []

    def elements(self, dtype: torch.dtype) -> int:
        """Of all tensors of a type."""
        return sum(count for count, seen_dtype in self.seen if seen_dtype == dtype)

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
    rank: int,
    count: int,
    port: int,
    function: Callable[..., Any],
    folder: Path,
    arguments: tuple[Any, ...],
    dtype: torch.dtype,
) -> None:
    _as_a_new_interpreter()
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    os.environ |= _as_rank(rank, count, port)
    with process_group():
        barrier()  # a function that sends nothing could else be over before the others have found rank 0
        torch.save(function(*arguments), folder / f"rank-{world().rank}.pt")


def _as_a_new_interpreter() -> None:
    """One that was forked would fork its own processes from a server of its own."""
    multiprocessing.set_start_method(None, force=True)


def _as_rank(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment that torchrun would give it."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
