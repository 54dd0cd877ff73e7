"""Networks by name, and what they cost."""

from __future__ import annotations

import pytest
import torch

from ccmb.core.errors import UsageError
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.presets import PRESETS, cost, preset
from tests.helpers.parameter_counts import layer, linear
from tests.helpers.tiny import tiny_config, tiny_model


def test_the_towers_of_the_base_network_cost_what_counting_by_hand_says() -> None:
    result = cost(preset("r2d2-base"))
    patches = linear(196, 16 * 16 * 3, 768)
    assert result.image == patches + 12 * layer(197, 768, 3072) + linear(1, 768, 768)
    assert result.text == 12 * layer(64, 768, 3072) + linear(1, 768, 768)


def test_cost_counts_the_parameters_that_use_needs() -> None:
    model = tiny_model()
    used = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.mlm_head.parameters())
    assert cost(tiny_config()).parameters == used


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_those_called_prd2_cannot_rank(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        assert R2D2Model(config).can_rank == name.startswith("r2d2")
    assert R2D2Config(**config.to_dict()).to_dict() == config.to_dict()


def test_changes_and_unknown_names() -> None:
    assert preset("r2d2-tiny", ranking_rule="log_odds").ranking_rule == "log_odds"
    with pytest.raises(UsageError, match="r2d2-bose: no such preset \\(did you mean 'r2d2-base'"):
        preset("r2d2-bose")
