"""Metrics of retrieval against a textbook's, on random and on tied scores, and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ccmb.inference.gallery import Gallery
from ccmb.inference.two_stage import Direction
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.common.resampling import interval
from ccmb.tasks.retrieval.metrics import bootstrap_recalls, hits_by_image, retrieval_report
from tests.helpers.galleries import Scores


def textbook_recall(scores: list[list[float]], right: list[set[int]], k: int) -> float:
    """Share of queries, in percent, with a right answer among the k best; among equal scores the right come last."""
    hits = 0
    for row, answers in zip(scores, right, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], item in answers))
        hits += any(item in answers for item in order[:k])
    return 100 * hits / len(scores)


@pytest.mark.parametrize("levels", [0, 2, 4])  # different scores; 0 leaves them as they are drawn
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_a_textbooks_exactly(levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.arange(17).repeat_interleave(torch.randint(1, 6, (17,), generator=generator))
    scores = torch.rand(2, len(image_of_text), 17, generator=generator)
    if levels:
        scores = (scores * levels).floor() / levels
    # Cosines of one-hot images are the texts' own numbers, exactly.
    empty = torch.empty(0, 0)
    images = TowerOutput(torch.eye(17), empty.expand(17, 0, 0))
    gallery = Gallery(images, TowerOutput(scores[0], empty.expand(len(image_of_text), 0, 0)), image_of_text)
    report = retrieval_report(Scores(scores[1]), gallery, depth=10**6)
    by_text = [{int(image)} for image in image_of_text]
    by_image = [set((image_of_text == image).nonzero()[:, 0].tolist()) for image in range(17)]
    for stage, of_stage in zip(("pre_ranking", "ranking"), scores, strict=True):
        ways = {"text_to_image": (of_stage.tolist(), by_text), "image_to_text": (of_stage.T.tolist(), by_image)}
        values = list[float]()
        for direction, (rows, right) in ways.items():
            wanted = {f"R@{k}": textbook_recall(rows, right, k) for k in (1, 5, 10)}
            assert report[direction][stage] == {name: round(value, 2) for name, value in wanted.items()}
            values += wanted.values()
        assert report["mean_recall"][stage] == round(sum(values) / 6, 2)


# --- intervals


@pytest.mark.parametrize("seed", range(3))
def test_bootstrap_over_images_equals_a_plain_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    ranks: dict[Direction, Tensor] = {
        "text_to_image": torch.randint(1, 13, (7,), generator=generator),
        "image_to_text": torch.randint(1, 13, (4,), generator=generator),
    }
    drawn = bootstrap_recalls(*hits_by_image(ranks, image_of_text), draws=20, seed=5)
    rng = np.random.default_rng(5)
    for draw in range(20):
        images = rng.integers(0, 4, 4).tolist()
        texts = [text for image in images for text in range(7) if image_of_text[text] == image]
        for index, (direction, queries) in enumerate((("text_to_image", texts), ("image_to_text", images))):
            chosen = ranks[direction][queries]  # type: ignore[index]
            expected = [100 * float((chosen <= k).double().mean()) for k in (1, 5, 10)]
            assert drawn[draw, index].tolist() == pytest.approx(expected)


def test_the_interval_holds_the_metric_and_narrows_with_more_images() -> None:
    widths = []
    for count in (40, 4000):
        ranks = torch.arange(count) % 3 * 3 + 1  # a third of rank 1, 4 and 7 each
        drawn = bootstrap_recalls(*hits_by_image({"image_to_text": ranks}, torch.arange(count)))
        low, high = interval(drawn[:, 0, 0])
        assert low < 100 * float((ranks == 1).double().mean()) < high
        widths.append(high - low)
    # Of a share p of n: 2 * 1.96 * sqrt(p(1-p)/n).
    assert widths[1] == pytest.approx(392 * (2 / 9 / 4000) ** 0.5, rel=0.1)
    assert widths[0] > 8 * widths[1]
