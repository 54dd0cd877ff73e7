"""Work that is killed at random moments: children that are, and trials in a process of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ccmb
from ccmb.core.files import read_json, read_json_lines, write_json
from ccmb.training.throughput import MEASURED
from ccmb.training.trainer import Trainer
from tests.helpers.processes import run_in_a_process


def in_a_child(
    action: Callable[[], object], kill_after: float | None = None, once: Callable[[], bool] = lambda: True
) -> int:
    """What the shell would say of a forked copy of this process that runs `action`: its exit code, or -9 if killed.

    Args:
        kill_after: seconds, from when `once` is true.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        while not once() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_in_a_child(
    action: Callable[[], object], folder: Path, seconds: float, once: Callable[[], bool] = lambda: True
) -> None:
    """Run it in a child that is killed after so many seconds. Where it ends sooner, since the clock of a busy machine
    is no measure, what it made of `folder` is removed and it runs again for half as long."""
    while (code := in_a_child(action, seconds, once)) != -signal.SIGKILL:
        assert code == 0
        shutil.rmtree(folder)
        seconds /= 2


def ccmb_killed_when(words: Sequence[object], moment: Callable[[], bool] | None, further: float = 0.0) -> int:
    """The exit code of `ccmb` with these words, as a process of its own; -9 if it was killed.

    Args:
        moment: kill it when this is true and `further` seconds have passed; None lets it end. A clock alone would be
            no measure, since most of the time is imports and the machine may be busy.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "ccmb", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(Path(ccmb.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    if moment is not None:
        while process.poll() is None and not moment():
            time.sleep(0.002)
        time.sleep(further)
        process.kill()
    _, errors = process.communicate(timeout=600)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode


def trials_apart(trials: Callable[[Path], Any], folder: Path) -> Any:
    """What `trials(folder)` returns, plain values, in a process of its own: one with threads should not be forked."""
    ended = run_in_a_process(_write_down, trials, folder)
    assert ended.code == 0, ended.err
    return read_json(folder / "found.json")


def _write_down(trials: Callable[[Path], Any], folder: Path) -> None:
    write_json(folder / "found.json", trials(folder))


def die_after_logging(step: int) -> None:
    """From here on a training dies at once when it has logged this step, with what it last saved."""
    log = Trainer._log

    def log_and_die(self: Trainer, line: dict[str, float]) -> None:
        log(self, line)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._log = log_and_die  # type: ignore[method-assign]


def lines_of(run: Path) -> list[dict[str, object]]:
    """The log without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key not in MEASURED}
        for _, line in read_json_lines(run / "metrics.jsonl")
    ]
