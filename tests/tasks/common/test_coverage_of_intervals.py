"""Every 95 % interval that is printed holds the truth as often as it says: simulated worlds whose truth is known.

Each test draws data sets of a known kind many times, lets the reports make their intervals, and counts how often these
hold the truth. The truth is that of the kind, computed from its own probabilities, never from a report. Where 95 %
hold, 120 repetitions show fewer than 90 % once in a hundred tests; the seeds are fixed, so that a run repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ccmb.benchmark.evaluation.retrieval import retrieval_of_ranks
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.inference.gallery import Gallery
from ccmb.inference.pair_scores import PairScores
from ccmb.inference.two_stage import Ranks
from ccmb.tasks.captioning.evaluate import drawn_metrics, metric_intervals
from ccmb.tasks.captioning.metrics import CaptionScores
from ccmb.tasks.classification.classifier import accuracy_report
from ccmb.tasks.common import resampling
from ccmb.tasks.common.resampling import interval
from ccmb.tasks.export.compare import _difference
from ccmb.tasks.finetuning.compare import compare
from ccmb.tasks.finetuning.finetuner import DrawnMetrics
from ccmb.tasks.generation.evaluate import Metrics
from ccmb.tasks.matching.calibration_error import estimate_calibration_error
from ccmb.tasks.matching.metrics import matching_report
from ccmb.tasks.retrieval.metrics import bootstrap_gain, bootstrap_recalls, hits_by_image, mean_recall

DRAWS = 100  # enough for how much values vary; the middle 95 % of so few are a little narrow
MINIMUM = 0.90
Ends = tuple[float, float]


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds draw the same units, so that they need not be drawn anew for each repetition."""
    kept: dict[tuple[int, int, int], list[np.ndarray]] = {}
    draw = resampling.drawn_weights

    def drawn(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
        key = (count, min(draws, DRAWS), seed)
        if key not in kept:
            kept[key] = list(draw(*key))
        return iter(kept[key])

    monkeypatch.setattr(resampling, "drawn_weights", drawn)
    monkeypatch.setattr("ccmb.tasks.captioning.evaluate.drawn_weights", drawn)


def assert_coverage(
    intervals: Callable[[np.random.Generator], dict[str, Ends]], truth: dict[str, float], times: int
) -> None:
    """Fails with the shares of those that hold the truth too seldom."""
    rng, held = np.random.default_rng(0), dict.fromkeys(truth, 0)
    for _ in range(times):
        ends_of = intervals(rng)
        for name, value in truth.items():
            low, high = ends_of[name]
            held[name] += low - 1e-9 <= value <= high + 1e-9
    shares = {name: count / times for name, count in held.items()}
    assert min(shares.values()) >= MINIMUM, shares


# --- retrieval: five texts of each image, of one difficulty

TEXTS = 5


def ranks_of(rng: np.random.Generator, images: int, ease: float, shared: np.ndarray | None = None) -> tuple[Ranks, ...]:
    """Ranks of the texts and of the images, before and after ranking: normal scores that correlate by 0.8 within an
    image, a rank being 1, 5, 10 or 20 by how high its score is."""
    of_image = rng.normal(size=(images, 1)) if shared is None else shared
    every = []
    for width in (TEXTS, 1):
        own = rng.normal(size=(images, width))
        first = np.sqrt(0.8) * of_image + np.sqrt(0.2) * own
        second = first + 0.4 * rng.normal(size=(images, width)) + 0.2
        ranks = [torch.from_numpy(_rank(score, ease).ravel()) for score in (first, second)]
        every.append(Ranks(*ranks))
    return tuple(every)


def _rank(score: np.ndarray, ease: float) -> np.ndarray:
    return np.select([score > -ease, score > -ease - 0.5, score > -ease - 0.8], [1, 4, 9], 20)


def gallery_of(images: int) -> Gallery:
    image_of_text = torch.arange(images).repeat_interleave(TEXTS)
    return Gallery(torch.empty(images, 0), torch.empty(images * TEXTS, 0), image_of_text)  # type: ignore[arg-type]


def retrieval_intervals(rng: np.random.Generator, images: int, ease: float) -> dict[str, Ends]:
    text_ranks, image_ranks = ranks_of(rng, images, ease)
    settings = Settings(depth=20, draws=DRAWS)
    report = retrieval_of_ranks(
        {"text_to_image": text_ranks, "image_to_text": image_ranks}, gallery_of(images), settings
    )
    assert report.gain is not None
    ends_of = {"gain": (report.gain["low"], report.gain["high"]), "mean": report.mean_recall_interval["ranking"]}
    for direction, by_stage in report.intervals.items():
        ends_of |= {f"{direction} {name}": ends for name, ends in by_stage["ranking"].items()}
    return ends_of


@pytest.mark.parametrize(("images", "ease"), [(100, 0.3), (40, 1.5)])
def test_recalls_mean_recall_and_gain_hold_as_often_as_they_say(images: int, ease: float) -> None:
    many = ranks_of(np.random.default_rng(9), 200_000, ease)
    recalls = {
        f"{direction} R@{k}": 100 * float((ranks.ranking <= k).double().mean())  # type: ignore[operator]
        for direction, ranks in zip(("text_to_image", "image_to_text"), many, strict=True)
        for k in (1, 5, 10)
    }
    assert many[0].ranking is not None
    gain = 100 * float(((many[0].ranking == 1).double() - (many[0].pre_ranking == 1).double()).mean())
    truth = recalls | {"mean": sum(recalls.values()) / 6, "gain": gain}
    assert_coverage(lambda rng: retrieval_intervals(rng, images, ease), truth, 200)


def test_intervals_of_a_gain_over_texts_would_hold_too_seldom() -> None:
    """The world is one in which it matters that texts of one image hang together."""
    images, gain, held = 150, _planted_gain(np.random.default_rng(1), 200_000).mean(), {"alone": 0, "images": 0}
    rng, unit = np.random.default_rng(0), torch.arange(images).repeat_interleave(TEXTS)
    for _ in range(150):
        moved = torch.from_numpy(_planted_gain(rng, images).ravel())
        before, after = torch.where(moved > 0, 2, 1), torch.where(moved < 0, 2, 1)
        for name, units in (("alone", None), ("images", unit)):
            interval = bootstrap_gain(before, after, units, draws=DRAWS)
            held[name] += interval["low"] <= 100 * gain <= interval["high"]
    assert held["alone"] / 150 < 0.8
    assert held["images"] / 150 >= MINIMUM


def _planted_gain(rng: np.random.Generator, images: int) -> np.ndarray:
    """(images, TEXTS) in -1, 0 and 1, with a correlation of 0.8 within an image."""
    score = np.sqrt(0.8) * rng.normal(size=(images, 1)) + np.sqrt(0.2) * rng.normal(size=(images, TEXTS))
    return np.where(score > 0.8, 1, np.where(score < -1.3, -1, 0))


def test_differences_of_an_export_and_gains_of_fine_tuning_hold_as_often_as_they_say() -> None:
    images, ease = 100, 0.3

    def measured(ranks: dict[str, Tensor]) -> DrawnMetrics:
        drawn = bootstrap_recalls(*hits_by_image(ranks, unit), DRAWS)  # type: ignore[arg-type]
        mean = mean_recall(ranks.values())
        assert mean is not None
        return DrawnMetrics({"ranking": mean}, {"ranking": drawn.mean((1, 2))}, {}, images, counted=True)

    unit = gallery_of(images).image_of_text

    def intervals(rng: np.random.Generator) -> dict[str, Ends]:
        text_ranks, image_ranks = ranks_of(rng, images, ease)
        stages = [
            {"text_to_image": getattr(text_ranks, stage), "image_to_text": getattr(image_ranks, stage)}
            for stage in ("pre_ranking", "ranking")
        ]
        metrics = compare({0.0: measured(stages[0]), 1.0: measured(stages[1])})["figures"]["ranking"]
        before, after = ({name: Ranks(stage_ranks, None) for name, stage_ranks in ranks.items()} for ranks in stages)
        exported = _difference(before, after, gallery_of(images), "pre_ranking")  # type: ignore[arg-type]
        ends_of = {name: (metric["low"], metric["high"]) for name, metric in exported.items()}
        return ends_of | {name: (metrics[name]["low"], metrics[name]["high"]) for name in ("before", "after", "gain")}

    many = ranks_of(np.random.default_rng(9), 200_000, ease)
    means = [mean_recall([getattr(way, stage) for way in many]) for stage in ("pre_ranking", "ranking")]
    ways = [
        100 * float((way.ranking == 1).double().mean() - (way.pre_ranking == 1).double().mean())  # type: ignore[union-attr]
        for way in many
    ]
    assert means[0] is not None
    assert means[1] is not None
    truth = {"mean_recall": means[1] - means[0], "gain": means[1] - means[0], "before": means[0], "after": means[1]}
    truth |= {"text_to_image R@1": ways[0], "image_to_text R@1": ways[1]}
    assert_coverage(intervals, truth, 160)


# --- matching: two pairs of each image


def pairs_of(rng: np.random.Generator, images: int, sure: float) -> tuple[np.ndarray, np.ndarray]:
    """(2 images,) log-odds, which are twice too sure, and labels; both pairs of an image are as hard."""
    hard = rng.normal(size=(images, 1))
    log_odds = sure * (0.6 * hard + 0.8 * rng.normal(size=(images, 2)))
    chance = 1 / (1 + np.exp(-log_odds / 2))
    return log_odds.ravel(), (rng.random(chance.shape) < chance).astype(int).ravel()


@pytest.mark.parametrize(("images", "sure"), [(80, 3.0), (25, 6.0)])
def test_auc_and_accuracy_hold_as_often_as_they_say(images: int, sure: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccmb.tasks.matching.metrics.fit_match_temperature", lambda *_: 2.0)  # which takes its time
    many, labels = pairs_of(np.random.default_rng(9), 200_000, sure)
    order = many.argsort()
    many, labels = many[order], labels[order]

    def accuracy_at(threshold: float) -> float:
        """Accuracy on all pairs of this kind, at a threshold of the match score."""
        index = np.searchsorted(many, np.log(threshold / (1 - threshold)))
        return float(((1 - labels[:index]).sum() + labels[index:].sum()) / len(labels))

    def intervals(rng: np.random.Generator) -> dict[str, Ends]:
        log_odds, label = pairs_of(rng, images, sure)
        while len(set(label)) < 2:
            log_odds, label = pairs_of(rng, images, sure)
        heads = torch.from_numpy(log_odds)[:, None].repeat(1, 2)
        image = torch.arange(images).repeat_interleave(2)
        report = matching_report(PairScores(torch.from_numpy(label), image, heads[:, 0], heads), 1.0, draws=DRAWS)
        ends_of: dict[str, Ends] = report["interval"]
        low, high = ends_of["accuracy_fitted"]
        fitted = np.mean([accuracy_at(threshold) for threshold in report["fitted"]["threshold"]])
        ends_of |= {"fitted": (low - fitted, high - fitted), "cosine": report["pre_ranking"]["interval"]["auc"]}
        return ends_of

    auc = float((np.cumsum(1 - labels) * labels).sum() / (labels.sum() * (1 - labels).sum()))
    truth = {"auc": auc, "cosine": auc, "accuracy": accuracy_at(0.5), "fitted": 0.0}
    assert_coverage(intervals, truth, 160)


def _curve(kind: str, logit: np.ndarray) -> np.ndarray:
    """What share of pairs of a probability match."""
    chance = 1 / (1 + np.exp(-logit))
    return {
        "right": chance,
        "a little too sure": 1 / (1 + np.exp(-logit / 1.2)),
        "twice too sure": 1 / (1 + np.exp(-logit / 2)),
        "five points too high": np.clip(chance - 0.05, 0, 1),
    }[kind]


@pytest.mark.parametrize("pairs", [1000, 4000])
@pytest.mark.parametrize("kind", ["right", "a little too sure", "twice too sure", "five points too high"])
@pytest.mark.parametrize("together", [1, 5])
def test_the_calibration_error_holds_as_often_as_it_says(pairs: int, kind: str, together: int) -> None:
    """`together` pairs belong to one image, are as hard, and turn out alike."""

    def world(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images, alike = count // together, 0.5 if together > 1 else 0.0
        hard = np.sqrt(alike) * rng.normal(size=(images, 1))
        logit = 3 * (hard + np.sqrt(1 - alike) * rng.normal(size=(images, together)))
        luck = np.where(rng.random((images, together)) < alike, rng.random((images, 1)), rng.random((images, together)))
        share = _curve(kind, logit)
        return (1 / (1 + np.exp(-logit))).ravel(), (luck < share).ravel(), share.ravel()

    chance, _, share = world(np.random.default_rng(9), 500_000)
    bins = np.clip((chance * 15).astype(int), 0, 14)
    truth = float(np.abs(np.bincount(bins, chance - share, 15)).sum() / len(chance))
    values = list[float]()

    def intervals(rng: np.random.Generator) -> dict[str, Ends]:
        chance, label, _ = world(rng, pairs)
        unit = torch.arange(pairs // together).repeat_interleave(together)
        estimate = estimate_calibration_error(torch.from_numpy(chance), torch.from_numpy(label), unit)
        assert estimate.low <= estimate.value <= estimate.high
        values.append(estimate.value)
        return {kind: estimate.interval}

    assert_coverage(intervals, {kind: truth}, 120)
    if kind == "twice too sure":
        assert np.mean(values) == pytest.approx(truth, abs=0.006)


# --- classification

ClassCounts = list[int]


@pytest.mark.parametrize(
    "counts",
    [[1] * 60, [2] * 40, [1, 2, 3, 4, 5] * 12, [5] * 30, [40, 3, 1, 1], [200] * 5],
    ids=["1 a class", "2 a class", "1 to 5 a class", "5 a class", "uneven", "200 a class"],
)
@pytest.mark.parametrize("ease", [1.0, 6.0])
def test_accuracies_hold_as_often_as_they_say_however_few_images_a_class_has(counts: ClassCounts, ease: float) -> None:
    share_C = np.random.default_rng(3).beta(ease, 1.0, len(counts))  # of each class, fixed
    label = np.repeat(np.arange(len(counts)), counts)

    def intervals(rng: np.random.Generator) -> dict[str, Ends]:
        ranks = np.where(rng.random(len(label)) < share_C[label], 1, np.where(rng.random(len(label)) < 0.5, 3, 9))
        ends_of: dict[str, Ends] = accuracy_report(torch.from_numpy(ranks), torch.from_numpy(label))["interval"]
        return ends_of

    top1 = float(share_C[label].mean())
    truth = {"top1": 100 * top1, "top5": 100 * (top1 + (1 - top1) / 2), "mean_per_class": 100 * float(share_C.mean())}
    assert_coverage(intervals, truth, 250)


# --- captions and paintings


def captions_of(rng: np.random.Generator, count: int) -> CaptionScores:
    length = rng.integers(8, 15, count).astype(float)
    skill = rng.beta(4, 3, count)
    total = np.maximum(length[:, None] - np.arange(4), 0)
    right = rng.binomial(total.astype(int), skill[:, None] ** np.arange(1, 5)).astype(float)
    cider = np.clip(rng.gamma(1.2, 0.6, count) * skill, 0, 10)
    return CaptionScores(
        right, total, length, length + rng.integers(-1, 3, count), rng.beta(5, 4, count) * skill, cider
    )


def test_metrics_of_captions_and_their_gains_hold_as_often_as_they_say() -> None:
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")

    def intervals(rng: np.random.Generator) -> dict[str, Ends]:
        before, after = captions_of(rng, 80), captions_of(rng, 80)
        drawn = (drawn_metrics(scores, DRAWS) for scores in (before, after))
        first, second = drawn
        gains = {f"gain of {name}": interval(second[name] - first[name], 80) for name in names}
        return metric_intervals(after, DRAWS) | gains

    truth = captions_of(np.random.default_rng(9), 300_000).metrics()
    assert_coverage(intervals, truth | {f"gain of {name}": 0.0 for name in names}, 120)


@pytest.mark.parametrize("texts", [100, 20])
def test_metrics_of_paintings_hold_as_often_as_they_say(texts: int) -> None:
    def intervals(rng: np.random.Generator) -> dict[str, Ends]:
        scores = {"match_score": 100 * rng.beta(2, 3, texts), "kind": 100.0 * (rng.random(texts) < 0.9)}
        metrics = Metrics(scores | {"cosine": 100 * np.tanh(rng.normal(0.3, 0.2, texts))}, 0.0, 0.0)
        other = Metrics({"match_score": 100 * rng.beta(2, 3, texts)}, 0.0, 0.0)
        gain = metrics.draws(DRAWS)["match_score"] - other.draws(DRAWS)["match_score"]
        return metrics.intervals(DRAWS) | {"gain": interval(gain, texts)}

    cosine = float(100 * np.tanh(np.random.default_rng(9).normal(0.3, 0.2, 1_000_000)).mean())
    assert_coverage(intervals, {"match_score": 40.0, "kind": 90.0, "cosine": cosine, "gain": 0.0}, 200)


# --- what the intervals are at the ends


@pytest.mark.parametrize("name", ["all", "none"])
def test_where_all_or_none_are_right_the_interval_leaves_room_for_what_was_not_seen(name: str) -> None:
    ranks = torch.full((20,), 1 if name == "all" else 9)
    report: dict[str, Any] = accuracy_report(ranks, torch.arange(20) % 4)
    low, high = report["interval"]["top1"]
    # Wilson's: 1.96^2 / (20 + 1.96^2) = 16 % of others may be otherwise; 18 % by Student's t.
    wide = (high - low) if name == "all" else high
    assert wide == pytest.approx(18, abs=0.5)
    assert (low if name == "none" else high) == (0 if name == "none" else 100)
