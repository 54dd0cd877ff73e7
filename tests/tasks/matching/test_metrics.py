"""Metrics of labelled pairs: against plain counts, and nothing is ever fitted on what it is measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ccmb.core.errors import CcmbError
from ccmb.data.sample import Sample
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.pair_scores import PairScores, score_labelled
from ccmb.inference.scoring import match_probability
from ccmb.inference.stages import R2D2Encoder, R2D2Ranker
from ccmb.tasks.common.resampling import drawn_weights
from ccmb.tasks.matching.calibration_error import calibration_error, estimate_calibration_error
from ccmb.tasks.matching.metrics import (
    auc,
    best_threshold,
    half_of_images,
    matching_report,
    weighted_auc,
    weighted_mean,
)
from ccmb.tasks.matching.predict import match_images
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pairs = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=14)


def tensors(labelled: list[tuple[int, bool, int]]) -> tuple[Tensor, Tensor, np.ndarray]:
    score, label, weight = zip(*labelled, strict=True)
    return torch.tensor(score).double() / 4, torch.tensor(label).long(), np.array(weight)


@given(pairs)
def test_weighted_metrics_are_those_of_pairs_that_are_there_so_many_times(
    labelled: list[tuple[int, bool, int]],
) -> None:
    score, label, weight = tensors(labelled)
    times = torch.from_numpy(weight)
    scores, labels = score.repeat_interleave(times), label.repeat_interleave(times)
    if 0 < int(labels.sum()) < len(labels):
        assert weighted_auc(score, label)(weight[None])[0] == pytest.approx(auc(scores, labels))
    else:
        assert np.isnan(weighted_auc(score, label)(weight[None])[0])
    if len(labels):
        share = float(((scores >= 0.5) == (labels == 1)).double().mean())
        assert weighted_mean((score >= 0.5) == (label == 1))(weight[None])[0] == pytest.approx(share)


@given(pairs)
def test_no_threshold_judges_more_pairs_right(labelled: list[tuple[int, bool, int]]) -> None:
    score, label, _ = tensors(labelled)
    best = best_threshold(score, label)
    every = [-1.0, 2.0, *(number / 16 for number in range(17))]

    def right(threshold: float) -> int:
        return int(((score >= threshold) == (label == 1)).sum())

    assert right(best) == max(map(right, every))
    assert float(score.min()) <= best <= float(torch.nextafter(score.max(), torch.tensor(9.0).double()))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 99))
def test_pairs_of_one_image_are_in_one_half(numbers: list[int], seed: int) -> None:
    image = torch.tensor(numbers)
    first = half_of_images(image, seed)
    halves = {number: set(first[image == number].tolist()) for number in numbers}
    assert all(len(half) == 1 for half in halves.values())


def simulated(
    count: int = 400, seed: int = 0, temperature: float = 3.0, bias: float = 0.0, images: int = 100
) -> PairScores:
    """Heads whose probability is right at the temperature, if there is no bias, and a cosine that knows less."""
    generator = torch.Generator().manual_seed(seed)
    heads = temperature * 2 * torch.randn(count, 1, generator=generator) + 0.1 * torch.randn(
        count, 2, generator=generator
    )
    label = (torch.rand(count, generator=generator) < match_probability(heads, temperature)).long()
    image = torch.arange(count) % images
    return PairScores(label, image, (heads.mean(1) / 20 + torch.randn(count, generator=generator)) / 9, heads + bias)


def test_the_report_holds_what_plain_counting_gives() -> None:
    scores = simulated()
    report = matching_report(scores, match_temperature=2.0, draws=200)
    assert scores.head_log_odds is not None
    chance = match_probability(scores.head_log_odds.double(), 2.0)
    assert report["auc"] == pytest.approx(auc(scores.score, scores.label), abs=1e-4)
    assert report["accuracy"] == pytest.approx(float(((chance >= 0.5) == (scores.label == 1)).float().mean()), abs=1e-4)
    assert report["calibration_error_plain"] == pytest.approx(calibration_error(chance, scores.label), abs=1e-4)
    error = estimate_calibration_error(chance, scores.label, scores.image)
    assert report["calibration_error"] == pytest.approx(error.value, abs=1e-4)
    assert report["interval"]["calibration_error"] == pytest.approx(error.interval, abs=1e-4)
    assert report["pre_ranking"]["auc"] == pytest.approx(auc(scores.cosine, scores.label), abs=1e-4)
    matches = int(scores.label.sum())
    assert (report["pairs"], report["pictures"], report["matches"], report["stage"]) == (400, 100, matches, "ranking")
    for metrics in (report, report["pre_ranking"]):
        for name, (low, high) in metrics["interval"].items():
            assert low < metrics[name] < high or (low == 0 and name.startswith("calibration")), name
    assert report["auc"] > report["pre_ranking"]["auc"]


def test_calibration_and_threshold_are_found_from_the_other_half() -> None:
    report = matching_report(simulated(count=4000, temperature=4.0), 1.0, draws=20)
    assert report["calibration_error_fitted"] < 0.05 < report["calibration_error"]
    assert all(3.5 < temperature < 4.6 for temperature in report["fitted"]["temperature"])
    biased = matching_report(simulated(count=4000, bias=6.0), 1.0, draws=20)
    assert biased["accuracy_fitted"] > biased["accuracy"] + 0.1
    assert biased["auc"] == pytest.approx(matching_report(simulated(count=4000), 1.0, draws=20)["auc"], abs=0.02)


def test_what_is_scored_never_moves_what_is_fitted() -> None:
    """With labels of no meaning, a threshold fitted on the pairs themselves would be right of more than half."""
    accuracies = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        label, heads = torch.arange(40) % 2, torch.randn(40, 2, generator=generator)
        scores = PairScores(label[torch.randperm(40, generator=generator)], torch.arange(40), heads[:, 0], heads)
        accuracies.append(matching_report(scores, 1.0, draws=1)["accuracy_fitted"])
    assert abs(np.mean(accuracies) - 0.5) < 0.04
    scores, other = simulated(), simulated(seed=1, bias=5.0)
    fitted = matching_report(scores, 1.0, other, draws=1)["fitted"]
    flipped = PairScores(1 - scores.label, scores.image, scores.cosine, scores.head_log_odds)
    assert matching_report(flipped, 1.0, other, draws=1)["fitted"] == fitted
    assert fitted["on"] == "another split"
    assert fitted["threshold"] == [best_threshold(other.score, other.label)]


def test_without_cross_encoders_the_cosine_is_the_score_and_no_probability() -> None:
    report = matching_report(simulated().without_heads(), draws=20)
    assert report["stage"] == "pre_ranking"
    assert "pre_ranking" not in report
    unknown = ("accuracy", "calibration_error", "calibration_error_fitted", "match_temperature")
    assert {report[name] for name in unknown} == {None}
    assert set(report["interval"]) == {"auc", "accuracy_fitted"}
    assert report["fitted"]["temperature"] is None
    assert 0.4 < report["accuracy_fitted"] < 0.8


def test_where_nothing_can_be_fitted_the_metrics_are_left_out() -> None:
    label, heads = torch.tensor([1, 0]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    report = matching_report(PairScores(label, torch.zeros(2).long(), heads[:, 0], heads), 1.0, draws=5)
    assert (report["auc"], report["accuracy_fitted"], report["fitted"]) == (1.0, None, None)


@pytest.mark.parametrize(
    ("label", "cosine", "words"),
    [
        ([1, 1], [0.1, 0.2], "all 2 pairs are labelled as a match; .* there must be both"),
        ([0, 0], [0.1, 0.2], "all 2 pairs are labelled as no match"),
        ([0, 1], [0.1, float("nan")], "not finite numbers"),
    ],
)
def test_pairs_that_tell_nothing_are_refused(label: list[int], cosine: list[float], words: str) -> None:
    scores = PairScores(torch.tensor(label), torch.arange(2), torch.tensor(cosine), None)
    with pytest.raises(CcmbError, match=words):
        matching_report(scores)


def test_equal_seeds_draw_the_same_images() -> None:
    first, second, third = (np.array(list(drawn_weights(9, 20, seed))) for seed in (3, 3, 4))
    assert (first == second).all()
    assert (first != third).any()
    assert (first.sum(1) == 9).all()


# --- scoring


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_pairs_are_scored_in_their_order_as_each_is_alone(triples: list[tuple[int, int, bool]], batch: int) -> None:
    model, processor, images = tiny_model(), tiny_processor(), tiny_images(5)
    samples = [Sample(str(p), (TEXTS[t],), extra={"label": int(fits)}) for p, t, fits in triples]
    loaded: list[str] = []

    def load(name: Any) -> Any:
        loaded.append(name)
        return images[int(name)]

    scores = score_labelled(R2D2Encoder(model, processor), R2D2Ranker(model), samples, load, batch)
    assert sorted(loaded) == sorted({sample.image for sample in samples})  # each once
    assert scores.label.tolist() == [int(fits) for _, _, fits in triples]
    for row, (image, text, _) in enumerate(triples):
        [alone] = match_images(R2D2Stages(model, processor), TEXTS[text], [images[image]])
        assert float(scores.cosine[row]) == pytest.approx(alone.cosine, abs=TINY_ERROR)
        assert float(scores.score[row]) == pytest.approx(alone.score, abs=TINY_ERROR)
    same = scores.image[:, None] == scores.image
    assert same.tolist() == [[one[0] == other[0] for other in triples] for one in triples]
