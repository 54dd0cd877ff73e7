"""Projections with a hidden layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ccmb.core.errors import CcmbError
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.official import to_official
from ccmb.r2d2.projection import HiddenProjection, new_projection
from tests.helpers.tiny import tiny_model, tiny_processor


def test_without_a_hidden_layer_a_projection_is_the_papers() -> None:
    assert type(new_projection(6, 4)) is nn.Linear


def test_a_hidden_layer_is_normed_and_dropped_from_in_training_alone() -> None:
    projection = HiddenProjection(6, 32, 4, dropout=0.5).double()
    pooled_BW = torch.randn(3, 6, dtype=torch.float64)
    hidden, output = projection.hidden, projection.output
    normed_BW = F.layer_norm(pooled_BW, (6,))
    plain = F.gelu(normed_BW @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias
    torch.testing.assert_close(projection.eval()(pooled_BW), plain)
    torch.testing.assert_close(projection(pooled_BW * 3), plain, rtol=1e-4, atol=1e-4)  # the norm's eps is left
    assert not torch.equal(projection.train()(pooled_BW), projection(pooled_BW))


def test_a_model_keeps_it(tmp_path: Path) -> None:
    model = tiny_model(projection_hidden=12, projection_dropout=0.25)
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path, changes={"projection_dropout": 0.5})
    assert isinstance(loaded, R2D2Model)
    assert isinstance(loaded.image_projection, HiddenProjection)
    assert loaded.image_projection.dropout.p == 0.5
    ids = torch.tensor([[2, 7, 8, 3]])
    torch.testing.assert_close(loaded.encode_text(ids).embed, model.eval().encode_text(ids).embed)


def test_the_official_network_has_none() -> None:
    with pytest.raises(CcmbError, match="linear projections"):
        to_official(tiny_model(projection_hidden=12))
