"""The numbers of an ablation against a plain reference: every draw counted one image at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ccmb.tasks.ablation.evaluation import Measured
from ccmb.tasks.ablation.ladder import Rung
from ccmb.tasks.ablation.statistics import compare_rungs
from ccmb.tasks.common.resampling import bounded_interval, gain

IMAGES, DRAWS = 12, 40
LADDER = [Rung("towers", (), None), Rung("fgr", (), "towers"), Rung("all", (), "fgr")]
TEXTS = [image for image in range(IMAGES) for _ in range(1 + image % 3)]  # the image of each text


def measured(seed: int, good: float, second: bool = True) -> Measured:
    """Random ranks; the larger `good` is, the more are 1."""
    rng = np.random.default_rng(seed)

    def ranks(count: int, more: float) -> torch.Tensor:
        return torch.tensor(np.where(rng.random(count) < good + more, 1, rng.integers(2, 15, count)))

    stages = ("pre_ranking", "ranking") if second else ("pre_ranking",)
    by_stage: Any = {
        stage: {"text_to_image": ranks(len(TEXTS), 0.2 * place), "image_to_text": ranks(IMAGES, 0.2 * place)}
        for place, stage in enumerate(stages)
    }
    return Measured(IMAGES, len(TEXTS), 0, torch.tensor(TEXTS), by_stage)


MEASURED = {
    "towers": {0: measured(1, 0.2, second=False), 1: measured(2, 0.3, second=False)},
    "fgr": {0: measured(3, 0.3), 1: measured(4, 0.4)},
    "all": {0: measured(5, 0.4)},  # whose second seed failed
}


def plain(one: Measured, stage: str, images: list[int]) -> dict[str, float]:
    """The metrics of some images, each with all its queries as often as it stands there."""
    values = {}
    for way in ("text_to_image", "image_to_text"):
        ranks = one.ranks[stage][way].tolist()
        asked = [
            rank
            for image in images
            for query, rank in enumerate(ranks)
            if (TEXTS[query] if way == "text_to_image" else query) == image
        ]
        for k in (1, 5, 10):
            values[f"{way}_R@{k}"] = 100 * sum(rank <= k for rank in asked) / len(asked)
    return {**values, "mean_recall": sum(values.values()) / 6}


def plain_draws(rung: str, stage: str, seeds: list[int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(DRAWS):
        images = rng.integers(0, IMAGES, IMAGES).tolist()
        of_seeds = [plain(MEASURED[rung][seed], stage, images) for seed in seeds]
        rows.append({name: np.mean([values[name] for values in of_seeds]) for name in of_seeds[0]})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return compare_rungs(LADDER, MEASURED, DRAWS)


def near(value: float) -> Any:
    return pytest.approx(value, abs=0.011)  # of rounding to hundredths


def test_means_deviations_and_intervals_over_seeds(result: dict[str, Any]) -> None:
    for stage in ("pre_ranking", "ranking"):
        draws = plain_draws("fgr", stage, [0, 1])
        for name, metric in result["fgr"][stage].items():
            values = [plain(MEASURED["fgr"][seed], stage, list(range(IMAGES)))[name] for seed in (0, 1)]
            assert metric["mean"] == near(float(np.mean(values)))
            assert metric["std"] == near(float(np.std(values, ddof=1)))
            assert list(metric["seeds"].values()) == [near(value) for value in values]
            ends = bounded_interval(float(np.mean(values)), draws[name], IMAGES, counted=True)
            assert (metric["low"], metric["high"]) == (near(ends[0]), near(ends[1]))
    assert result["towers"]["ranking"] is None
    assert result["all"]["ranking"]["mean_recall"]["std"] is None  # of one seed


@pytest.mark.parametrize(
    ("after", "before", "seeds", "where"),
    [
        (("fgr", "ranking"), ("fgr", "pre_ranking"), [0, 1], ("fgr", "ranking_gain")),
        (("fgr", "ranking"), ("towers", "pre_ranking"), [0, 1], ("fgr", "to_previous", "last_stage")),
        (("fgr", "pre_ranking"), ("towers", "pre_ranking"), [0, 1], ("fgr", "to_first", "pre_ranking")),
        (("all", "ranking"), ("fgr", "ranking"), [0], ("all", "to_previous", "ranking")),
    ],
)
def test_differences_are_paired_by_image_over_the_seeds_of_both(
    result: dict[str, Any], after: tuple[str, str], before: tuple[str, str], seeds: list[int], where: tuple[str, ...]
) -> None:
    metrics_there: Any = result
    for key in where:
        metrics_there = metrics_there[key]
    drawn = [plain_draws(*one, seeds) for one in (after, before)]
    for name, metric in metrics_there.items():
        every = list(range(IMAGES))
        values = [
            plain(MEASURED[after[0]][seed], after[1], every)[name]
            - plain(MEASURED[before[0]][seed], before[1], every)[name]
            for seed in seeds
        ]
        mean = float(np.mean(values))
        ends = gain(mean, drawn[0][name] - drawn[1][name], IMAGES)
        assert metric["mean"] == near(mean)
        assert (metric["low"], metric["high"]) == (near(ends["low"]), near(ends["high"]))
        assert metric["excludes_zero"] == (ends["low"] > 0 or ends["high"] < 0)
        assert metric["same_sign"] == sum(value * mean > 0 for value in values)
        assert list(metric["seeds"]) == [str(seed) for seed in seeds]


def test_pairing_narrows_the_interval_of_equal_rungs_to_what_one_image_more_would_change() -> None:
    same = MEASURED["fgr"]
    pair = [Rung("one", (), None), Rung("other", (), "one")]
    [metric] = [
        compare_rungs(pair, {"one": same, "other": same}, DRAWS)["other"]["to_previous"]["ranking"]["mean_recall"]
    ]
    assert (metric["mean"], metric["same_sign"], metric["excludes_zero"]) == (0, 0, False)
    ends = gain(0.0, np.zeros(DRAWS), IMAGES)
    assert (metric["low"], metric["high"]) == (ends["low"], ends["high"])


def test_rungs_that_failed_are_left_out_and_what_is_compared_with_them_has_no_difference() -> None:
    values = compare_rungs(LADDER, {"fgr": {}, "towers": MEASURED["towers"], "all": MEASURED["all"]}, DRAWS)
    assert list(values) == ["towers", "all"]
    assert values["all"]["to_previous"] is None
    assert values["all"]["to_first"]["rung"] == "towers"
    assert set(values["all"]["to_first"]) == {"rung", "pre_ranking", "last_stage"}
    apart = compare_rungs(LADDER[:2], {"towers": {0: MEASURED["towers"][0]}, "fgr": {1: MEASURED["fgr"][1]}}, DRAWS)
    assert apart["fgr"]["to_previous"]["last_stage"] is None  # no seed in both
