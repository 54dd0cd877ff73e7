"""The page on testing: its settings are those that the Makefile and CI run, and what it names exists."""

from __future__ import annotations

import re

import pytest

from tests.helpers import exact
from tests.helpers.pages import TESTING_PAGES, blocks, read

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def settings(text: str) -> set[tuple[str, ...]]:
    """Values of VARIABLES that stand one beside the other."""
    return set(re.findall(" ".join(rf"{name}=(\w+)" for name in VARIABLES), text))


@pytest.mark.parametrize("page", TESTING_PAGES)
def test_the_settings_of_the_page_are_those_that_are_run(page: str) -> None:
    assert settings(read(page)) == settings(read("Makefile")) == {
        ("avx2", "AVX2", "AVX2"), ("default", "SSE41", "SSE4_2")
    }  # fmt: skip
    [commands] = blocks(page, "bash")
    targets = [line.split()[1] for line in commands.splitlines()]
    assert targets == re.findall(r"^make (\S+)$", read(".ci/run"), re.MULTILINE) == ["test", "test-numeric"]
    assert all(re.search(rf"^{target}: ", read("Makefile"), re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", TESTING_PAGES)
def test_what_a_new_test_needs_is_there(page: str) -> None:
    for name in ("PROOFS", "assert_same", "same", "product_error"):
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", read(page))
        assert hasattr(exact, name)
    conftest = read("tests/conftest.py")
    assert all(f'"{name}"' in read(page) and f"def {name}()" in conftest for name in ("float32", "float64"))
    assert "numeric: " in read("pyproject.toml")
