"""Atomic checkpoints: `checkpoints/step-N/state.pt`, whole or absent whatever moment the process dies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ccmb.errors import CcmbError
from ccmb.files import atomic_write, sync_folder

FILE_NAME = "state.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Save `state` (tensors, numbers, lists and dicts) as the checkpoint after `step` steps and return its folder.

    The newest `keep` checkpoints stay; older ones and what killed processes left half-written are removed.

    Raises:
        CcmbError: the disk is full or not writable; earlier checkpoints stay.
    """
    place = folder / f"step-{step}"
    try:
        with atomic_write(place / FILE_NAME, "wb") as file:
            torch.save(state, file)
        sync_folder(folder)
    except (OSError, RuntimeError, CcmbError) as error:
        raise CcmbError(f"{_first_line(error)}; earlier checkpoints in {folder} are intact") from None
    kept = {f"step-{step}" for step in list_checkpoints(folder)[-keep:]}
    for path in folder.glob("step-*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in place.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    return place


def list_checkpoints(folder: Path) -> list[int]:
    """Steps of the whole checkpoints, ascending."""
    found = (path.parent.name.removeprefix("step-") for path in folder.glob(f"step-*/{FILE_NAME}"))
    return sorted(int(step) for step in found if step.isdecimal())


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint as (step, state), its tensors on the CPU, or None where there is none.

    Raises:
        CcmbError: it cannot be read; the message names it.
    """
    steps = list_checkpoints(folder)
    if not steps:
        return None
    path = folder / f"step-{steps[-1]}" / FILE_NAME
    try:
        return steps[-1], torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        mend = f"remove {path.parent} to go on from an earlier one"
        raise CcmbError(f"{path}: not a readable checkpoint ({_first_line(error)}); {mend}") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
