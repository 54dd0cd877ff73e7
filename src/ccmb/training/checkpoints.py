"""Atomic checkpoints: `checkpoints/step-N/state.pt`, whole or absent whatever moment the process dies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ccmb.errors import CcmbError
from ccmb.files import atomic_write

FILE_NAME = "state.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Save `state` (tensors, numbers, lists and dicts) as the checkpoint after `step` steps; older ones are removed.

    Raises:
        CcmbError: the disk is full or not writable; earlier checkpoints stay.
    """
    place = folder / f"step-{step}"
    try:
        with atomic_write(place / FILE_NAME, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise CcmbError(f"{place}: the checkpoint could not be written ({error}); earlier checkpoints are intact") from None
    _sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    return place


def list_checkpoints(folder: Path) -> list[int]:
    """Steps of the whole checkpoints, ascending."""
    found = (path.parent.name.removeprefix("step-") for path in folder.glob(f"step-*/{FILE_NAME}"))
    return sorted(int(step) for step in found if step.isdigit())


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint as (step, state), or None where there is none."""
    steps = list_checkpoints(folder)
    if not steps:
        return None
    path = folder / f"step-{steps[-1]}" / FILE_NAME
    try:
        return steps[-1], torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CcmbError(f"{path}: not a readable checkpoint ({error}); remove its folder to go on from an earlier one") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
