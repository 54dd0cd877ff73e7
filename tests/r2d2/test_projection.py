"""Projections with a hidden layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ccmb.core.errors import CcmbError, UsageError
from ccmb.objectives.forward import measure_features
from ccmb.objectives.pre_ranking import gcpr_loss
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.official import to_official
from ccmb.r2d2.projection import HiddenProjection, ProjectionHead, new_projection, of_heads, standardize_of
from ccmb.r2d2.towers.two_towers import l2_normalize
from tests.helpers.tiny import tiny_model, tiny_processor


def test_without_a_hidden_layer_a_projection_is_the_papers() -> None:
    assert type(new_projection(6, 4)) is nn.Linear


def test_features_are_standardised_once_measured() -> None:
    projection = HiddenProjection(6, 32, 4, dropout=0.5).double().eval()
    pooled_BW = torch.randn(3, 6, dtype=torch.float64)
    head = projection.heads[0]
    assert isinstance(head, ProjectionHead)
    hidden, output = head.hidden, head.output

    def plain(features_BW: torch.Tensor) -> torch.Tensor:
        return F.gelu(features_BW @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias

    torch.testing.assert_close(projection(pooled_BW), plain(pooled_BW))
    assert standardize_of(nn.Linear(2, 2)) is None
    assert not projection.norm.measured
    measure_features(projection.norm, pooled_BW)
    assert projection.norm.measured
    standard_BW = (pooled_BW - pooled_BW.mean(0)) / pooled_BW.std(0, correction=0)
    torch.testing.assert_close(projection(pooled_BW), plain(standard_BW))
    assert not torch.equal(projection.train()(pooled_BW), projection(pooled_BW))


def test_a_feature_that_does_not_vary_is_centred() -> None:
    projection = HiddenProjection(2, 3, 4, dropout=0.0)
    measure_features(projection.norm, torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert projection.norm(torch.tensor([[4.0, 6.0]])).tolist() == [[2.0, 1.0]]


def test_the_cosine_of_several_heads_is_the_mean_of_theirs() -> None:
    images, texts = (HiddenProjection(6, 8, 12, heads=3).double()(torch.randn(4, 6).double()) for _ in range(2))
    cosine_BB = l2_normalize(images) @ l2_normalize(texts).T
    each = [
        l2_normalize(image) @ l2_normalize(text).T
        for image, text in zip(images.chunk(3, 1), texts.chunk(3, 1), strict=True)
    ]
    torch.testing.assert_close(cosine_BB, torch.stack(each).mean(0))
    shares = of_heads(l2_normalize(images), 3)
    torch.testing.assert_close(torch.cat([l2_normalize(share) for share in shares]), torch.cat(shares))


def test_gcpr_trains_each_head_by_itself() -> None:
    images, texts = (
        l2_normalize(torch.cat([l2_normalize(torch.randn(5, 4).double()) for _ in range(2)], 1)) for _ in range(2)
    )
    temperature, targets = torch.tensor(0.1), torch.eye(5).double()
    halves = zip(of_heads(images, 2), of_heads(texts, 2), strict=True)
    each = [gcpr_loss(image, text, temperature, targets) for image, text in halves]
    torch.testing.assert_close(gcpr_loss(images, texts, temperature, targets, heads=2), torch.stack(each).mean())


@pytest.mark.parametrize("changes", [{"projection_heads": 2}, {"projection_heads": 3, "projection_hidden": 8}])
def test_heads_need_a_hidden_layer_and_equal_shares(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="projection_heads"):
        tiny_model(embed_dim=8, **changes)


def test_a_model_keeps_it(tmp_path: Path) -> None:
    model = tiny_model(projection_hidden=12, projection_dropout=0.25)
    measure_features(model.text_projection.norm, torch.randn(5, model.config.text_config.hidden_size))
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path, changes={"projection_dropout": 0.5})
    assert isinstance(loaded, R2D2Model)
    assert isinstance(loaded.image_projection, HiddenProjection)
    assert loaded.image_projection.heads[0].dropout.p == 0.5
    assert isinstance(loaded.text_projection, HiddenProjection)
    assert [bool(p.norm.measured) for p in (loaded.image_projection, loaded.text_projection)] == [False, True]
    ids = torch.tensor([[2, 7, 8, 3]])
    torch.testing.assert_close(loaded.encode_text(ids).embed, model.eval().encode_text(ids).embed)


def test_the_official_network_has_none() -> None:
    with pytest.raises(CcmbError, match="linear projections"):
        to_official(tiny_model(projection_hidden=12))
