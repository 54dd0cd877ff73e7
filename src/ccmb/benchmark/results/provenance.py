"""The provenance of a result: the checkout and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ccmb import __version__
from ccmb.core.device import choose_device


def commit() -> str:
    """The commit of the checkout, with a plus if files have changed since; outside a checkout, the version."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        git("ls-files", "--error-unmatch", __file__)  # it may lie in a checkout of something else
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    return f"ccmb {__version__}"


def hardware() -> dict[str, Any]:
    """The processor, threads, GPU and libraries of this machine."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    machine = {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    device = choose_device("auto")
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine | {"torch": torch.__version__, "python": platform.python_version()}
