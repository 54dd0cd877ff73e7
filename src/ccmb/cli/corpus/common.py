"""Helpers that the verbs of `ccmb corpus` share."""

from __future__ import annotations

import importlib.util
from typing import Any

from ccmb.core.errors import CcmbError

NEEDED = ("daft", "pyarrow", "aiohttp", "opencc")


def need_extra() -> None:
    """Check that the extra `corpus` is installed.

    Raises:
        CcmbError: a library of the extra is missing.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise CcmbError(f"ccmb corpus needs {', '.join(missing)}: pip install 'ccmb[corpus]'")


def open_scorer(name: str) -> Any:
    """The model of a run, folder or hub id that scores pairs."""
    from ccmb.benchmark.corpus_scorer import ModelScorer

    return ModelScorer(name)
