"""What all tests share: quiet libraries, no hub and one thread, so that results and times repeat."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ccmb.core.logs import lines_on_stderr

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches anything
# Nor writes into the user's cache.
os.environ["CCMB_CACHE"] = tempfile.mkdtemp(prefix="ccmb-tests-")
atexit.register(shutil.rmtree, os.environ["CCMB_CACHE"], ignore_errors=True)

# A loaded machine is no failure: no deadline, and the same examples every time.
settings.register_profile("ccmb", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ccmb")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def lines() -> Iterator[None]:
    """Messages are lines on stderr, as they are for the command line."""
    with lines_on_stderr():
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """The test computes in float64, see `exact`."""
    from tests.helpers.exact import double_precision

    with double_precision():
        yield


@pytest.fixture
def float32() -> Iterator[None]:
    """A test of a file in float64 whose subject is float32."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def float64_module() -> Iterator[None]:
    """All tests of a file, and the fixtures they share, compute in float64."""
    from tests.helpers.exact import double_precision

    with double_precision():
        yield
