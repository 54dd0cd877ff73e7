"""The runs of an ablation, each a process of its own: one that fails ends no other, and its memory is freed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, NamedTuple, Protocol

import torch

from ccmb.core.device import visible_devices
from ccmb.core.errors import CcmbError, Stopped
from ccmb.core.progress import progress
from ccmb.core.signals import Stop, stop_signals
from ccmb.tasks.ablation.plan import Base, Run
from ccmb.tasks.ablation.stages import saved_step
from ccmb.training.runs.run_folder import read_run

SECONDS_BETWEEN_LOOKS = 0.2
LOOKS_BETWEEN_NOTES = 20
SECONDS_TO_END = 10.0  # of a process that was asked twice to stop


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


# Starts the process of a run, with some variables of its environment.
Start = Callable[[Run, Mapping[str, str]], Process]


@dataclass(slots=True)
class Outcome:
    """What became of the runs.

    Attributes:
        skipped: were finished before.
        failed: each with the reason in one line.
    """

    skipped: list[Run] = field(default_factory=list)
    trained: list[Run] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def environments(device: str, jobs: int | None) -> list[dict[str, str]]:
    """The environment of each process that runs at a time: a GPU for each in turn, or a share of the CPU's threads.

    Args:
        device: the recipe's `training.device`.
        jobs: how many; by default one for each GPU, and one on the CPU. A device with a number is taken as it is.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0
    jobs = jobs or max(1, gpus)
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": visible_devices(f"cuda:{job % gpus}")} for job in range(jobs)]
    if jobs == 1:
        return [{}]
    return [{"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))} for _ in range(jobs)]


def starter(base: Base, lock: IO[str]) -> Start:
    """A function that starts `ccmb pretrain` for a run.

    What it says goes to the run's log. It holds the ablation's lock too: should the parent be killed, nobody else
    trains in its folder before it has ended.
    """

    def start(run: Run, environment: Mapping[str, str]) -> Process:
        command = [sys.executable, "-m", "ccmb", "pretrain", str(base.path), *run.overrides, "--out", str(run.folder)]
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with open(run.log, "wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                pass_fds=(lock.fileno(),),
                process_group=0,  # Ctrl-C reaches the parent alone, which hands it on once
            )

    return start


def train(runs: Sequence[Run], places: Sequence[Mapping[str, str]], start: Start) -> Outcome:
    """Train all runs that are not finished, as many at a time as there are places.

    Ctrl-C and SIGTERM are handed on: each run in progress ends its step and saves it. A second one stops at once.

    Raises:
        Stopped: a signal asked for it; the message says what is kept.
    """
    outcome = Outcome(skipped=[run for run in runs if run.is_finished])
    todo = deque(run for run in runs if not run.is_finished)
    if not todo:
        return outcome
    with progress("ablation", len(runs), "runs", len(outcome.skipped)) as advance, stop_signals() as stop:
        with _Workers(places, start, stop) as workers:
            for run, failure in workers.work(todo, lambda note: advance(0, note)):
                if failure is None:
                    outcome.trained.append(run)
                elif not stop.signal:
                    outcome.failed[run.name] = failure
                advance(1)
        if stop.signal:
            raise stopped(runs, stop)
    return outcome


def stopped(runs: Sequence[Run], stop: Stop) -> Stopped:
    """What is kept when a signal has ended the training."""
    finished = sum(run.is_finished for run in runs)
    kept = [
        f"{run.name} at step {step}"
        for run in runs
        if not run.is_finished and (step := saved_step(run.recipe, run.folder))
    ]
    words = f"stopped; {finished} of {len(runs)} runs are finished"
    words += f", kept: {', '.join(kept)}" if kept else ""
    return Stopped(f"{words}; run the same command again to go on", stop.signal == signal.SIGINT)


class _Busy(NamedTuple):
    """A process at work."""

    run: Run
    place: Mapping[str, str]
    process: Process


class _Workers:
    """Processes that run at a time; when the context ends early, they are stopped."""

    def __init__(self, places: Sequence[Mapping[str, str]], start: Start, stop: Stop) -> None:
        self.idle, self.start, self.stop = deque(places), start, stop
        self.busy: list[_Busy] = []

    def work(self, todo: deque[Run], note: Callable[[str], None]) -> Iterator[tuple[Run, str | None]]:
        """Each run as it ends, with the reason if it failed."""
        handed_on, looks = False, 0
        while self.busy or (todo and not self.stop.signal):
            while todo and self.idle and not self.stop.signal:
                run, place = todo.popleft(), self.idle.popleft()
                self.busy.append(_Busy(run, place, self.start(run, place)))
            if self.stop.signal and not handed_on:
                handed_on = True
                for busy in self.busy:
                    busy.process.send_signal(self.stop.signal)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if looks % LOOKS_BETWEEN_NOTES == 0:
                note("; ".join(_state(busy.run) for busy in self.busy))
            looks += 1
            for ended in [busy for busy in self.busy if busy.process.poll() is not None]:
                self.busy.remove(ended)
                self.idle.append(ended.place)
                yield ended.run, _failure(ended.run, ended.process.wait())

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for busy in self.busy:
            busy.process.send_signal(self.stop.signal or signal.SIGINT)
        for busy in self.busy:
            try:
                busy.process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                busy.process.kill()
                busy.process.wait()


def _failure(run: Run, code: int) -> str | None:
    """Why a run failed whose process has ended; None if it is finished."""
    if code == 0 and run.is_finished:
        return None
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    lines = [line.strip() for line in run.log.read_text("utf-8", "replace").splitlines()] if run.log.exists() else []
    spoken = [line for line in lines if line.startswith("ccmb: ")] or [line for line in lines if line]
    words = f": {spoken[-1].removeprefix('ccmb: ')}" if spoken else ""
    return f"{how}{words} (all it said: {run.log})"


def _state(run: Run) -> str:
    """How far a run has come, by its log."""
    with suppress(CcmbError, OSError):
        now = read_run(run.folder)
        return f"{run.name}: {now.step}/{now.steps}"
    return f"{run.name}: starts"
