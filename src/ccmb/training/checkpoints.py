"""Atomic checkpoints: `checkpoints/step-N/state.pt` is complete or absent, whenever the process dies."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write, sync_folder
from ccmb.training.model_selection import best_step

_LOG = logging.getLogger(__name__)

FILE_NAME = "state.pt"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedCheckpoint(CcmbError):
    """The file is not a complete checkpoint; reading it again would not help."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Save `state` (tensors, numbers, lists and dicts) as the checkpoint after `step` steps and return its folder.

    The newest `keep` checkpoints and the best one stay. Older ones and half-written files of killed processes are
    removed.

    Raises:
        CcmbError: the disk is full or not writable; earlier checkpoints stay.
    """
    checkpoint = folder / f"step-{step}"
    try:
        with atomic_write(checkpoint / FILE_NAME, "wb") as file:
            _save(state, file)
        sync_folder(folder)
    except (OSError, RuntimeError, CcmbError) as error:
        full = any(f"[Errno {number}]" in str(error) for number in FULL)
        fix = "; free some space or set a lower training.save_total_limit" if full else ""
        raise CcmbError(f"{_first_line(error)}{fix}; earlier checkpoints in {folder} are intact") from None
    remove_old(folder, keep)
    for path in checkpoint.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    return checkpoint


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` and the best one; half-written ones go too."""
    steps = list_checkpoints(folder)
    kept = {f"step-{step}" for step in [*steps[-keep:], best_step(folder)]}
    for path in folder.glob("step-*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    names = (path.parent.name.removeprefix("step-") for path in folder.glob(f"step-*/{FILE_NAME}"))
    return sorted(int(step) for step in names if step.isdecimal())


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest complete checkpoint as (step, state), its tensors on the CPU; None where there is no checkpoint.

    Newer ones that are damaged are moved to `damaged-step-N.pt`, with a line on stderr: otherwise they would count as
    newest when old ones are removed.

    Raises:
        CcmbError: no checkpoint is complete, or one cannot be read now; the message names it.
    """
    damaged: list[tuple[int, DamagedCheckpoint]] = []
    for step in reversed(list_checkpoints(folder)):
        try:
            state = load_checkpoint(folder, step)
        except DamagedCheckpoint as error:
            damaged.append((step, error))
            continue
        for bad, reason in damaged:
            _set_aside(folder, bad)
            _LOG.warning("%s; going on from step %d", reason, step)
        return step, state
    if damaged:
        newest, reason = damaged[0]
        earlier = "no earlier one is whole; " if len(damaged) > 1 else ""
        raise CcmbError(f"{reason}; {earlier}remove {folder / f'step-{newest}'} to start from the beginning")
    return None


def load_checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """The state of one checkpoint, its tensors on the CPU.

    Raises:
        CcmbError: it is damaged or cannot be read; the message names it.
    """
    return _load(folder / f"step-{step}" / FILE_NAME)


def _load(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as file:
            if bad := file.testzip():  # torch itself compares no checksums
                raise DamagedCheckpoint(f"{path}: not a readable checkpoint (the checksum of {bad} is wrong)")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:  # another process of the run has set it aside
        raise DamagedCheckpoint(f"{path}: not a readable checkpoint (gone)") from None
    except (OSError, MemoryError) as error:  # the file may be whole: an earlier one would throw work away
        raise CcmbError(f"{path}: cannot be read just now ({_first_line(error)}); try again") from None
    except DamagedCheckpoint:
        raise
    except Exception as error:
        raise DamagedCheckpoint(f"{path}: not a readable checkpoint ({_first_line(error)})") from None


def _set_aside(folder: Path, step: int) -> None:
    checkpoint = folder / f"step-{step}"
    with suppress(FileNotFoundError):  # another process of the run may have been first
        os.replace(checkpoint / FILE_NAME, folder / f"damaged-step-{step}.pt")
        shutil.rmtree(checkpoint, ignore_errors=True)


class _Recorder:
    """A file that keeps the error of a failed write: torch reports only that positions do not agree."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    recorder = _Recorder(file)
    try:
        torch.save(state, recorder)  # type: ignore[arg-type]
    except Exception:
        if recorder.error:
            raise recorder.error from None
        raise


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
