"""What all tests share: quiet libraries, no hub and one thread, so that results and times repeat."""

from __future__ import annotations

import gc
import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches anything

# A loaded machine is no failure: no deadline, and the same examples every time.
settings.register_profile("ccmb", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ccmb")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()
