"""FID and KID against their definitions, and the features that they compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.metrics.pairwise import polynomial_kernel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from ccmb.core.errors import CcmbError
from ccmb.tasks.generation.features import open_extractor
from ccmb.tasks.generation.metrics import distances, fid, kid
from tests.helpers.tiny import SIZE, tiny_images, tiny_processor
from tests.helpers.tuning import save_start


def sets(count: int = 40, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mixing = torch.randn(width, width)
    return torch.randn(count, width) @ mixing, 0.7 * torch.randn(count + 10, width) + 0.3


def test_fid_is_the_frechet_distance_of_two_gaussians() -> None:
    one, other = (features.double().numpy() for features in sets())
    covariances = [np.cov(features, rowvar=False) for features in (one, other)]
    shift = np.square(one.mean(0) - other.mean(0)).sum()
    expected = shift + np.trace(
        covariances[0] + covariances[1] - 2 * linalg.sqrtm(covariances[0] @ covariances[1]).real
    )
    assert fid(*sets()) == pytest.approx(expected, rel=1e-6)
    # Two Gaussians of one dimension: (m - m')^2 + (s - s')^2.
    flat = torch.tensor([[-1.0], [1.0]]), torch.tensor([[2.0], [8.0]])
    spread = [float(part.std()) for part in flat]
    assert fid(*flat) == pytest.approx(25 + (spread[0] - spread[1]) ** 2)


def test_fid_of_few_images_with_many_features_is_a_number_and_of_equal_sets_nothing() -> None:
    torch.manual_seed(0)
    few = torch.randn(5, 64)
    assert fid(few, few) == pytest.approx(0, abs=1e-6)
    assert fid(few, few + 1) == pytest.approx(64, rel=1e-4)


def test_kid_is_the_unbiased_estimate_with_the_cubic_kernel() -> None:
    one, other = (features.double().numpy() for features in sets())

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return polynomial_kernel(a, b, degree=3, gamma=1 / a.shape[1], coef0=1)

    total = 0.0
    for features in (one, other):
        pairs = [
            kernel(features[i : i + 1], features[j : j + 1])[0, 0]
            for i in range(len(features))
            for j in range(len(features))
            if i != j
        ]
        total += float(np.mean(pairs))
    expected = total - 2 * kernel(one, other).mean()
    assert kid(*sets()) == pytest.approx(expected, rel=1e-9)


def test_kid_of_images_of_one_kind_is_around_nothing_however_few_there_are() -> None:
    torch.manual_seed(1)
    drawn = [kid(torch.randn(8, 4), torch.randn(8, 4)) for _ in range(300)]
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / np.sqrt(len(drawn))
    assert min(drawn) < 0


def test_one_image_has_no_distance() -> None:
    with pytest.raises(CcmbError, match="two images or more"):
        distances(torch.randn(1, 4), torch.randn(5, 4))


def test_features_are_those_of_the_named_network(tmp_path: Path) -> None:
    images = tiny_images(3)
    own = open_extractor(str(save_start(tmp_path / "start")))
    assert own.name == "R2D2 start, image tower"
    from tests.helpers.tiny import tiny_model

    with torch.inference_mode():
        expected = tiny_model().encode_image(tiny_processor().images(images)).pooled
    torch.testing.assert_close(own(images), expected)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=SIZE, patch_size=16
    )
    folder = tmp_path / "vision"
    CLIPVisionModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(folder)
    other = open_extractor(str(folder))
    assert other.name == "clip_vision_model vision"
    assert other(images).shape == (3, 32)
    with pytest.raises(CcmbError, match="no such model folder"):
        open_extractor(str(tmp_path / "nothing"))
