"""Sharing a list of jobs among devices: one process for each, which takes the next job when it has finished one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar

import torch

from ccmb.core.device import choose_device, visible_devices
from ccmb.core.errors import CcmbError
from ccmb.core.logs import lines_on_stderr, shown_as_lines
from ccmb.core.progress import silence


class ProcessLost(CcmbError):
    """A process ended without an answer: it was killed, or ran out of memory."""


Job = TypeVar("Job")
Done = TypeVar("Done")


def share(
    function: Callable[[Job], Done], jobs: Sequence[Job], devices: Sequence[str]
) -> Iterator[tuple[Job, Done | ProcessLost]]:
    """Run the function on all jobs; yields each job with its result, in the order in which they finish.

    A process that is lost loses one job, and the others go on. If no process is left, all other jobs are lost too.

    Args:
        function: picklable; it sees its own device alone, and `choose_device("auto")` is that one.
        devices: such as "cuda:0" or "cpu".

    Raises:
        CcmbError: there is no such device.
    """
    for device in devices:
        choose_device(device, "--devices")
    with ExitStack() as until_done:
        cpus = sum(device == "cpu" for device in devices)
        idle = deque(until_done.enter_context(_Process(function, device, cpus)) for device in devices)
        todo, busy = deque(jobs), dict[Any, tuple[_Process, Job]]()
        while busy or (todo and idle):
            while todo and idle:
                process, job = idle.popleft(), todo.popleft()
                process.give(job)
                busy[process.pipe] = process, job
            for pipe in wait(list(busy)):
                process, job = busy.pop(pipe)
                answer = process.answer()
                if not isinstance(answer, ProcessLost):
                    idle.append(process)
                yield job, answer
        for job in todo:
            yield job, ProcessLost("no process is left to measure it; run the same command again")


class _Process:
    """The process of a device. It ends with the `with` statement, and with its parent."""

    def __init__(self, function: Callable[[Any], Any], device: str, cpus: int) -> None:
        self.device = device
        self.pipe, child_pipe = multiprocessing.Pipe()
        self._child = multiprocessing.get_context("spawn").Process(
            target=_answer, args=(function, device, cpus, child_pipe, shown_as_lines()), daemon=True
        )
        self._child.start()
        child_pipe.close()  # only the child holds it, so that its end is seen here

    def give(self, job: Any) -> None:
        with suppress(OSError):  # it has ended, as `answer` will say
            self.pipe.send(job)

    def answer(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._child.join()
            code = self._child.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return ProcessLost(f"its process on {self.device} is gone ({how}); run the same command again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        self._child.join()
        self.pipe.close()


def _answer(function: Callable[[Any], Any], device: str, cpus: int, pipe: Connection, lines: bool) -> None:
    with lines_on_stderr() if lines else nullcontext():
        _answer_all(function, device, cpus, pipe)


def _answer_all(function: Callable[[Any], Any], device: str, cpus: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer, which ends this process
    silence()
    os.environ["CUDA_VISIBLE_DEVICES"] = visible_devices(device)
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // cpus))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(function(job))
