"""Which type is computed in: what the processor offers decides nothing but speed, and float64 is never narrowed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ccmb.core import device
from ccmb.core.device import native_bf16, precision
from ccmb.core.floats import as_default_float, at_least_float32
from ccmb.inference import stages as two_stage
from ccmb.inference.stages import RankOptions
from ccmb.objectives.distillation import fgd_loss
from ccmb.objectives.language_modeling import mlm_loss
from ccmb.objectives.pre_ranking import gcpr_loss, multi_positive_targets
from ccmb.objectives.ranking import fgr_loss
from ccmb.training import trainer
from tests.helpers.exact import assert_same, double_precision, product_error
from tests.helpers.processes import run_in_processes
from tests.helpers.tiny import tiny_model

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_the_precision_auto_is_bf16_where_the_processor_has_it_and_fp32_elsewhere(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native, "avx2": True}, raising=False)
    assert native_bf16(CPU) is native
    with precision(CPU, "auto"):
        assert torch.is_autocast_enabled("cpu") is native
    for name, expected in (("bf16", True), ("fp32", False)):  # what is asked for is done on any processor
        with precision(CPU, name):
            assert torch.is_autocast_enabled("cpu") is expected


def test_a_torch_that_tells_no_capabilities_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_bf16(CPU) is False


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_cross_encoders_choose_in_the_precision_that_the_processor_has(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_stage, "native_bf16", lambda device: native)
    assert RankOptions("auto", 3).on(tiny_model()) == RankOptions(chosen, 3)  # type: ignore[arg-type]
    assert RankOptions("fp32").on(tiny_model()) == RankOptions("fp32")


def test_the_trainer_asks_the_same_function_as_the_second_stage() -> None:
    assert device.native_bf16 is two_stage.native_bf16
    assert trainer.computes_bf16 is device.computes_bf16


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32),
     (torch.float16, torch.float32)],
)  # fmt: skip
def test_half_precision_is_widened_and_float64_stays(given: torch.dtype, expected: torch.dtype) -> None:
    states: Tensor = torch.nn.functional.normalize(torch.randn(3, 4).to(given), dim=1)
    assert at_least_float32(states).dtype == expected
    assert fgd_loss(states, states).dtype == expected
    assert mlm_loss(states, torch.tensor([0, 1, 2])).dtype == expected
    one = torch.tensor(0.1, dtype=expected)
    assert gcpr_loss(states, states, one, torch.eye(3, dtype=expected)).dtype == expected
    with double_precision() if given == torch.float64 else nullcontext():
        assert fgr_loss(states[:, :2], states[:, :2], torch.tensor([1, 0, 0])).dtype == expected


# --- what the proofs stand on


def thirds() -> dict[str, Tensor]:
    return {"targets": multi_positive_targets(torch.ones(3, 3, dtype=torch.bool)), "new": torch.zeros(2)}


def test_processes_that_a_proof_starts_compute_in_float64_too(tmp_path: Path) -> None:
    with double_precision():
        own = thirds()
        assert all(value.dtype == torch.float64 for value in own.values())
        for rank in run_in_processes(2, thirds, tmp_path):
            assert_same(rank, own)
    assert thirds()["new"].dtype == as_default_float(torch.ones(1) > 0).dtype == torch.float32


def test_a_proof_refuses_float32_and_a_difference_of_a_billionth() -> None:
    one = torch.ones(2, dtype=torch.double)
    assert_same({"a": [one]}, {"a": [one + 1e-11]})
    with pytest.raises(AssertionError):
        assert_same(one, one + 1e-9)
    with pytest.raises(AssertionError, match="float32 proves nothing"):
        assert_same(torch.ones(2), torch.ones(2))


def test_the_stated_error_holds_for_any_order_of_the_additions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400, 1000, generator=generator)
    exact, size = (x.double() * y.double()).sum(1), (x.double() * y.double()).abs().sum(1)
    one_by_one, products = torch.zeros(400), x * y
    for column in range(1000):
        one_by_one = one_by_one + products[:, column]
    for sums in (one_by_one, products.sum(1), products.flip(1).cumsum(1)[:, -1], torch.einsum("nd,nd->n", x, y)):
        assert bool(((sums.double() - exact).abs() <= product_error(1000) * size).all())
