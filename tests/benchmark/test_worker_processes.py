"""Jobs shared among processes: each once, and a process that dies takes one job with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from ccmb.benchmark import worker_processes as device_processes
from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import read_result
from ccmb.benchmark.runner import run_benchmark
from ccmb.benchmark.worker_processes import ProcessLost, share
from ccmb.core.device import visible_devices
from ccmb.core.errors import CcmbError
from tests.helpers.benchmark_data import save_set
from tests.helpers.processes import forking
from tests.helpers.two_towers import save_r2d2, save_two_towers


def where(job: int) -> tuple[int, int, str]:
    """A job of a test: what it was given, and the process and device that it saw."""
    if job < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return job, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that need not import what takes longest; `test_without_a_process_the_rest_is_lost` has a real one."""
    monkeypatch.setattr(device_processes.multiprocessing, "get_context", lambda _: forking())


def test_each_job_is_done_once_and_a_lost_process_takes_one(forked: None) -> None:
    done = list(share(where, [1, -1, 2, 3], ["cpu", "cpu"]))
    lost = [job for job, answer in done if isinstance(answer, ProcessLost)]
    received = [answer for _, answer in done if not isinstance(answer, ProcessLost)]
    assert lost == [-1]
    assert "killed by SIGKILL" in str(next(answer for job, answer in done if job == -1))
    assert sorted(answer[0] for answer in received) == [1, 2, 3]
    assert os.getpid() not in {answer[1] for answer in received}
    assert {answer[2] for answer in received} == {""}


def test_without_a_process_the_rest_is_lost() -> None:
    done = dict(share(where, [-1, 1], ["cpu"]))
    assert isinstance(done[-1], ProcessLost)
    assert "no process is left" in str(done[1])


def test_devices_are_seen_alone_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_devices(device) for device in ("cpu", "cuda", "cuda:3")] == ["", "0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_devices("cuda:1") == "6"
    with pytest.raises(CcmbError, match="--devices=tpu"):
        next(share(where, [1], ["cpu", "tpu"]))


def test_results_of_several_processes_are_those_of_one(forked: None, tmp_path: Path) -> None:
    models = [str(save_r2d2(tmp_path / "r2d2")), str(save_two_towers(tmp_path / "clip", "chinese_clip")), "nowhere"]
    sets = [
        open_measured_set(f"{name}={save_set(tmp_path / name, seed=seed)}") for seed, name in enumerate(("one", "two"))
    ]
    settings = Settings(depth=3, draws=50)
    alone = run_benchmark(models, sets, tmp_path / "alone", settings)
    together = run_benchmark(models, sets, tmp_path / "together", settings, ["cpu", "cpu"])
    assert together.failed == alone.failed
    assert len(alone.failed) == 1  # once, not once a set
    files = [path.relative_to(tmp_path / "alone") for path in alone.measured]
    assert sorted(path.relative_to(tmp_path / "together") for path in together.measured) == sorted(files)
    for file in files:
        one, other = (read_result(tmp_path / folder / file) for folder in ("alone", "together"))
        assert (one.key, one.model, one.data) == (other.key, other.model, other.data)
        assert one.retrieval.ranks == other.retrieval.ranks
        assert one.retrieval.intervals == other.retrieval.intervals
    assert read_result(tmp_path / "together" / files[0]).hardware["threads"] == max(1, torch.get_num_threads() // 2)
    again = run_benchmark(models, sets, tmp_path / "together", settings, ["cpu"])
    assert (again.measured, len(again.skipped)) == ([], len(files))
