"""Proofs that two ways compute one thing: in float64, so that what they round differently is far below what counts.

A sum of a thousand products in float32 is off by up to 1e-4 of its size, by how much depends on the order in which a
processor adds, and what follows may enlarge it. In float64 it is 1e-13, so that a tolerance of 1e-10 has room
for all processors and none for a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

TOLERANCE = 1e-10
FLOAT32_EPS = torch.finfo(torch.float32).eps

# `pytestmark = PROOFS`: all tests of a file are numeric ones in float64, and so is what its fixtures make.
PROOFS = [pytest.mark.numeric, pytest.mark.usefixtures("float64_module")]


@contextmanager
def double_precision() -> Iterator[None]:
    """New tensors and networks are float64 within; processes that are started too, see `processes`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assert_same(result: Any, expected: Any, msg: Any = None) -> None:
    """Equal to 1e-10, of the value or absolutely, and both float64 where they are tensors of floats."""
    for value in _tensors(expected):
        assert not value.is_floating_point() or value.dtype == torch.float64, f"{value.dtype} proves nothing"
    torch.testing.assert_close(result, expected, rtol=TOLERANCE, atol=TOLERANCE, msg=msg)


def same(expected: Any) -> Any:
    """`value == same(expected)` for numbers, lists and dicts of them, to 1e-10."""
    return expected if expected is None else pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def product_error(terms: int, size: float = 1.0) -> float:
    """How far a sum of so many float32 products may be off, whatever the order of the additions.

    |error| <= n eps / (1 - n eps) * sum |x_i y_i| (Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1,
    with the unit roundoff rounded up to eps).

    Args:
        size: of the sum of the products' absolute values; at most 1 for unit vectors.
    """
    share = terms * FLOAT32_EPS
    return share / (1 - share) * size


# Of what tiny towers and cross encoders say in float32: some thirty sums of 32 or 48 terms stand one after the other
# in them, and what they say has about the size 1.
TINY_ERROR = product_error(1000)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
