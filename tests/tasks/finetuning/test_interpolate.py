"""Weights between two models: the ends are both, exactly; what does not go together is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.loading import load_model
from ccmb.tasks.finetuning.interpolate import interpolate, mix
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.exact import product_error
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import save_start


def states(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": (torch.randn(4, 3, generator=generator) * 10 ** torch.randint(-8, 8, (4, 3), generator=generator)).to(
            dtype
        ),
        "b": torch.randn((), generator=generator).to(dtype),
        "steps": torch.tensor(seed),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=st.integers(0, 1000))
def test_the_ends_are_the_two_models_bit_for_bit(dtype: torch.dtype, seed: int) -> None:
    before, after = states(seed, dtype), states(seed + 1, dtype)
    for name in ("a", "b"):
        assert torch.equal(interpolate(before, after, 0.0)[name], before[name])
        assert torch.equal(interpolate(before, after, 1.0)[name], after[name])


@given(share=st.floats(0, 1))
def test_between_them_every_weight_lies_on_the_line_and_counters_are_those_after(share: float) -> None:
    before, after = states(1), states(2)
    mixed = interpolate(before, after, share)
    for name in ("a", "b"):
        expected = before[name].double() + share * (after[name].double() - before[name].double())
        # Two products and a sum.
        rounding = product_error(3) * (before[name].abs() + after[name].abs())
        assert ((mixed[name].double() - expected).abs() <= rounding).all()
    assert mixed["steps"] == 2


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="give a share from 0"):
        interpolate(states(1), states(2), share)


def test_networks_of_another_shape_are_refused_by_the_name_of_what_differs() -> None:
    before, after = tiny_model().state_dict(), tiny_model(cross_layers=0).state_dict()
    with pytest.raises(CcmbError, match=r"only the one before has image_text_encoder"):
        interpolate(before, after, 0.5)
    with pytest.raises(CcmbError, match=r"only the one after has image_text_encoder"):
        interpolate(after, before, 0.5)
    with pytest.raises(CcmbError, match=r"image_projection\.weight is \(16, 32\) and \(8, 32\)"):
        interpolate(before, tiny_model(embed_dim=8).state_dict(), 0.5)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def embeddings(folder: Path) -> Tensor:
    model, processor = load_model(folder)
    with torch.inference_mode():
        return model.encode_image(processor.images(tiny_images(3))).embed


def test_the_verb_writes_a_model_that_loads(command: Command, tmp_path: Path) -> None:
    before, after = save_start(tmp_path / "before"), save_start(tmp_path / "after", seed=1)
    for share, same in ((0, before), (1, after), (0.5, None)):
        out = tmp_path / f"mixed-{share}"
        outcome = command("mix", before, after, "--share", share, "--out", out)
        assert (outcome.code, outcome.out) == (0, f"model: {out}\n"), outcome.err
        for folder in (before, after):
            assert torch.equal(embeddings(out), embeddings(folder)) == (folder == same)


def test_a_calibration_is_kept_only_by_the_weights_it_was_fitted_to(tmp_path: Path) -> None:
    for name, temperature in (("before", 2.0), ("after", 3.0)):
        model = tiny_model()
        model.config.match_temperature = temperature
        save_model(tmp_path / name, model, tiny_processor())
    for share, temperature in ((0.0, 2.0), (1.0, 3.0), (0.3, 1.0)):
        mix(tmp_path / "before", tmp_path / "after", share, tmp_path / f"{share}")
        assert load_model(tmp_path / f"{share}")[0].config.match_temperature == temperature


def test_other_tokenizers_and_folders_that_hold_something_are_refused(command: Command, tmp_path: Path) -> None:
    before, after = save_start(tmp_path / "before"), save_start(tmp_path / "after")
    outcome = command("mix", before, after, "--out", after)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "holds something already" in outcome.err
    text = (after / "tokenizer.json").read_text(encoding="utf-8")
    (after / "tokenizer.json").write_text(text.replace("船", "舟"), encoding="utf-8")
    outcome = command("mix", before, after, "--out", tmp_path / "mixed")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "their tokenizers differ" in outcome.err
    assert not (tmp_path / "mixed").exists()
