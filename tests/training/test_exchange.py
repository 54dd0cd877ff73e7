"""Rows brought from other ranks: the wanted ones and no others, and their gradients back at their owners."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from ccmb.training.distributed import world
from ccmb.training.exchange import plan_exchange
from tests.helpers.processes import run_in_processes

RANKS, ROWS = 3, 4
EVERYTHING = list(range(RANKS * ROWS))


def drawn(seed: int) -> list[list[int]]:
    """What each rank wants, by chance."""
    chance = random.Random(seed)
    return [chance.choices(EVERYTHING, k=chance.choice([0, 1, 3, 9])) for _ in range(RANKS)]


WANTED: dict[str, list[list[int]]] = {
    "unevenly many, repeated": [[5, 11, 5, 0, 5], [3], [9, 1, 1, 4, 6, 5, 0]],
    "one rank wants nothing": [[10, 4], [], [0, 8]],
    "one rank is asked for nothing": [[9, 1], [8], [2, 8, 11]],
    "nobody wants anything": [[], [], []],
    "own ones alone": [[3, 0, 3], [4, 5, 6, 7], [11]],
    "one for all": [[6], [6, 6], [6]],
    "everything": [EVERYTHING[::-1]] * RANKS,
    **{f"drawn {seed}": drawn(seed) for seed in range(5)},
}
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


def all_rows(dtype: torch.dtype) -> torch.Tensor:
    """(12, 2, 3) of all ranks; small whole numbers, which every type holds exactly."""
    values = torch.arange(RANKS * ROWS)[:, None, None] + 20 * torch.arange(6).view(2, 3)
    return (values % 3 == 0) if dtype == torch.bool else values.to(dtype)


def weights(wanted: int, rank: int) -> torch.Tensor:
    """(K, 1, 1) what the loss of a rank makes of each row that it wants."""
    return torch.arange(1.0, wanted + 1)[:, None, None] + rank


def exchanged() -> dict[str, dict[str, Any]]:
    """Of each case what this rank gets, in every type."""
    return {f"{name}, {dtype}": fetched(WANTED[name], dtype) for name in WANTED for dtype in DTYPES}


def fetched(wanted: list[list[int]], dtype: torch.dtype) -> dict[str, Any]:
    this_world = world()
    wanted_rows = torch.tensor(wanted[this_world.rank], dtype=torch.int64)
    exchange = plan_exchange(wanted_rows, ROWS)
    rows = all_rows(dtype)[this_world.rows(ROWS)].requires_grad_(dtype.is_floating_point)
    distinct = exchange.fetch(rows)
    got: dict[str, Any] = {"rows": distinct.detach()[exchange.index], "distinct": len(distinct)}
    if dtype.is_floating_point:
        (distinct.index_select(0, exchange.index) * weights(len(wanted_rows), this_world.rank)).sum().backward()
        got["gradient"] = rows.grad
    return got


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What each of three processes gets."""
    return run_in_processes(RANKS, exchanged, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WANTED)
def test_ranks_get_the_rows_they_want_and_each_of_them_once(
    name: str, dtype: torch.dtype, three: list[dict[str, dict[str, Any]]]
) -> None:
    everything = all_rows(dtype)
    for rank, wanted_rows in enumerate(WANTED[name]):
        got = three[rank][f"{name}, {dtype}"]
        assert got["rows"].dtype == dtype
        assert torch.equal(got["rows"], everything[wanted_rows])
        assert got["distinct"] == len(set(wanted_rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WANTED)
def test_owners_add_up_the_gradients_of_all_that_wanted_a_row(
    name: str, dtype: torch.dtype, three: list[dict[str, dict[str, Any]]]
) -> None:
    expected = torch.zeros(RANKS * ROWS, 2, 3)
    for rank, wanted_rows in enumerate(WANTED[name]):
        for row, weight in zip(wanted_rows, weights(len(wanted_rows), rank), strict=True):
            expected[row] += weight
    for rank in range(RANKS):
        got = three[rank][f"{name}, {dtype}"]
        assert got["gradient"].dtype == dtype
        assert torch.equal(got["gradient"].float(), expected[rank * ROWS : (rank + 1) * ROWS])


def test_one_process_takes_its_rows_as_they_are() -> None:
    rows, wanted = torch.rand(3, 2), torch.tensor([2, 0, 2])
    exchange = plan_exchange(wanted, 3)
    assert exchange.fetch(rows) is rows
    assert exchange.index is wanted
