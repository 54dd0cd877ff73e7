"""Two-stage retrieval: ranks and recalls against brute force, and both stages against the model itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ccmb.core.choices import RankingRule
from ccmb.inference.answers import pessimistic_ranks
from ccmb.inference.gallery import Gallery
from ccmb.inference.scoring import rank_pairs
from ccmb.inference.two_stage import Direction, Ranks, two_stage_ranks
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.retrieval.metrics import bootstrap_gain, recalls, report_of_ranks, retrieval_report
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.galleries import DIRECTIONS, TEXTS_OF, gallery_of
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS


# --- metrics


@given(st.data())
def test_rank_is_the_worst_place_of_the_best_right_answer_among_equal_scores(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 6))
    row = st.lists(st.integers(0, 3), min_size=width, max_size=width)
    scores = data.draw(st.lists(row, min_size=1, max_size=4))
    right = [data.draw(st.sets(st.integers(0, width - 1), min_size=1)) for _ in scores]
    relevant = torch.tensor([[column in answers for column in range(width)] for answers in right])
    ranks = pessimistic_ranks(torch.tensor(scores).float(), relevant)
    for values, answers, rank in zip(scores, right, ranks.tolist(), strict=True):
        # Sorted by falling score, wrong answers first among equals.
        order = sorted(range(width), key=lambda column: (-values[column], column in answers))
        assert rank == 1 + min(order.index(column) for column in answers)


def test_scores_without_a_number_rank_last() -> None:
    relevant = torch.tensor([[True, False, False]])
    assert pessimistic_ranks(torch.full((1, 3), torch.nan), relevant).tolist() == [3]
    assert pessimistic_ranks(torch.tensor([[0.5, torch.nan, 0.1]]), relevant).tolist() == [2]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_recall_is_the_share_of_queries_within_k(ranks: list[int]) -> None:
    expected = {f"R@{k}": round(100 * sum(rank <= k for rank in ranks) / len(ranks), 2) for k in (1, 5, 10)}
    assert recalls(torch.tensor(ranks)) == pytest.approx(expected, abs=0.011)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=20))
def test_bootstrap_interval_contains_the_mean_gain(ranks: list[tuple[int, int]]) -> None:
    before, after = torch.tensor(ranks).T
    gain = bootstrap_gain(before, after, draws=200)
    mean = 100 * sum((b == 1) - (a == 1) for a, b in ranks) / len(ranks)
    assert gain["mean"] == pytest.approx(mean, abs=0.006)
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert bootstrap_gain(before, after, draws=200) == gain
    # Where nothing changed something may yet change on others: as if half a query had, either way.
    none = bootstrap_gain(before, before, draws=200)
    assert none["mean"] == 0
    assert -none["low"] == none["high"] >= min(100, round(1.95 * 100 / (len(ranks) + 2), 2))


def test_the_interval_of_the_gain_is_over_images_not_texts() -> None:
    """All five texts of an image gain or lose together: the interval is that of 200 images, and not of 1,000 texts."""
    rng = np.random.default_rng(0)
    moved = rng.choice([-1, 0, 1], 200, p=[0.1, 0.6, 0.3])
    before = torch.from_numpy(np.where(moved > 0, 2, 1)).repeat_interleave(5)
    after = torch.from_numpy(np.where(moved < 0, 2, 1)).repeat_interleave(5)
    of_images = bootstrap_gain(before, after, torch.arange(200).repeat_interleave(5))
    alone = bootstrap_gain(before, after)
    expected = 2 * 1.96 * 100 * moved.std() / 200**0.5
    assert of_images["high"] - of_images["low"] == pytest.approx(expected, rel=0.08)
    assert alone["high"] - alone["low"] == pytest.approx(expected / 5**0.5, rel=0.08)
    ranks = {"text_to_image": Ranks(before, after), "image_to_text": Ranks(before[::5], after[::5])}
    image_of_text = torch.arange(200).repeat_interleave(5)
    gallery = Gallery(torch.empty(200, 0), torch.empty(1000, 0), image_of_text)  # type: ignore[arg-type]
    assert report_of_ranks(ranks, gallery, 10)["gain_R@1"] == of_images  # type: ignore[arg-type]


def test_the_mean_recall_is_that_of_recalls_that_are_not_rounded() -> None:
    """1, 1 and 4 of 600 are 0.1667, 0.1667 and 0.6667 %, on average 0.3333; of 0.17, 0.17 and 0.67 it were 0.34."""
    ranks = {"text_to_image": Ranks(torch.tensor([1] + [9] * 3 + [50] * 596), None)}
    report = report_of_ranks(ranks, Gallery(*[torch.empty(600, 0)] * 2, torch.arange(600)), 10)  # type: ignore[arg-type]
    assert report["text_to_image"]["pre_ranking"] == {"R@1": 0.17, "R@5": 0.17, "R@10": 0.67}
    assert report["mean_recall"] == {"pre_ranking": 0.33, "ranking": None}


# --- encoding


@pytest.mark.parametrize("batch", [2, 128])
def test_gallery_holds_every_text_in_order_beside_its_image(batch: int) -> None:
    model, processor = tiny_model(), tiny_processor()
    gallery = gallery_of(model, batch)
    assert gallery.image_of_text.tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    with torch.no_grad():
        for index, text in enumerate(TEXTS):
            alone = model.encode_text(**processor.texts([text]))
            assert_same(gallery.texts.embed[index], alone.embed[0])
            length = alone.states.shape[1]
            assert_same(gallery.texts.states[index, :length], alone.states[0])
            assert gallery.texts.mask is not None
            assert int(gallery.texts.mask[index].sum()) == length
        pixels = processor.images(tiny_images(len(TEXTS_OF)))
        assert_same(gallery.images.embed, model.encode_image(pixels).embed)


# --- both stages


def brute_force(model: R2D2Model, gallery: Gallery, direction: Direction) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines, final scores and relevance of everything with everything, as (queries, items)."""
    count_texts, count_images = len(gallery.texts), len(gallery.images)
    cosine, final = torch.empty(count_texts, count_images), torch.empty(count_texts, count_images)
    for t in range(count_texts):
        for i in range(count_images):
            cosine[t, i] = gallery.texts.embed[t] @ gallery.images.embed[i]
            out = model.rank(gallery.images, gallery.texts, torch.tensor([i]), torch.tensor([t]))
            if model.config.ranking_rule == "sum":
                final[t, i] = cosine[t, i] + out.score
            else:
                log_odds = [logits.log_softmax(1) for logits in (out.logits_text_image, out.logits_image_text)]
                final[t, i] = cosine[t, i] / model.temperature + sum(
                    pair_logits[0, 1] - pair_logits[0, 0] for pair_logits in log_odds
                )
    relevant = gallery.image_of_text[:, None] == torch.arange(count_images)
    return (cosine, final, relevant) if direction == "text_to_image" else (cosine.T, final.T, relevant.T)


def best_rank(scores: Tensor, relevant: Tensor) -> int:
    best = max(float(score) for score, right in zip(scores, relevant, strict=True) if right)
    return 1 + sum(float(score) >= best for score, right in zip(scores, relevant, strict=True) if not right)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rule", ["sum", "log_odds"])
@pytest.mark.parametrize("depth", [1, 2, 3, 8, 100])
def test_ranks_of_both_stages_equal_a_plain_computation_on_everything(
    direction: Direction, rule: RankingRule, depth: int
) -> None:
    model = tiny_model()
    model.config.ranking_rule = rule
    with torch.inference_mode():
        gallery = gallery_of(model)
        cosine, final, relevant = brute_force(model, gallery, direction)
    ranks = two_stage_ranks(model, gallery, direction, depth)
    assert ranks.ranking is not None
    for query in range(len(cosine)):
        first = best_rank(cosine[query], relevant[query])
        assert int(ranks.pre_ranking[query]) == first
        top = sorted(range(cosine.shape[1]), key=lambda item: -float(cosine[query, item]))[:depth]
        # A right answer outside the top keeps its first-stage rank.
        second = best_rank(final[query, top], relevant[query, top]) if first <= depth else first
        assert int(ranks.ranking[query]) == second


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_do_not_change_the_ranks(direction: Direction, chunk: int) -> None:
    model = tiny_model()
    gallery = gallery_of(model)
    whole, parts = (two_stage_ranks(model, gallery, direction, 3, size) for size in (64, chunk))
    assert torch.equal(whole.pre_ranking, parts.pre_ranking)
    assert whole.ranking is not None
    assert parts.ranking is not None
    assert torch.equal(whole.ranking, parts.ranking)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_model_that_scores_everything_alike_gets_the_worst_ranks(direction: Direction) -> None:
    model = tiny_model()
    gallery = gallery_of(model)
    same = [TowerOutput(torch.ones_like(o.embed), o.states, o.mask) for o in (gallery.images, gallery.texts)]
    alike = Gallery(*same, gallery.image_of_text)
    ranks = two_stage_ranks(model, alike, direction, depth=2)
    right = 1 if direction == "text_to_image" else torch.tensor([len(texts) for texts in TEXTS_OF])
    items = len(alike.images) if direction == "text_to_image" else len(alike.texts)
    assert ranks.ranking is not None
    for stage in (ranks.pre_ranking, ranks.ranking):
        assert torch.equal(stage, torch.zeros_like(stage) + items - right + 1)


@pytest.mark.parametrize("batch", [1, 3, 2048])
def test_pairs_in_batches_score_as_in_one(batch: int) -> None:
    model = tiny_model()
    gallery = gallery_of(model)
    index = torch.tensor([0, 4, 4, 2, 0]), torch.tensor([7, 0, 1, 1, 7])
    with torch.inference_mode():
        expected = model.rank(gallery.images, gallery.texts, *index)
        match = rank_pairs(model, gallery.images, gallery.texts, *index, batch)
        assert_same(match.score, expected.score)
        assert_same(match.log_odds, expected.log_odds)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_probability_is_the_mean_of_both_heads_softmax_at_the_temperature(temperature: float) -> None:
    model, processor = tiny_model(match_temperature=temperature), tiny_processor()
    index = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2])
    with torch.no_grad():
        images = model.encode_image(processor.images(tiny_images(3)))
        texts = model.encode_text(**processor.texts(TEXTS[:3]))
        output, match = model.rank(images, texts, *index), rank_pairs(model, images, texts, *index)
    heads = output.logits_text_image, output.logits_image_text
    expected = sum((logits / temperature).softmax(1)[:, 1] for logits in heads) / 2
    assert_same(match.probability, expected)
    assert_same(match.score, output.score)  # whatever the temperature
    assert_same(match.head_log_odds.sum(1), match.log_odds)
    if temperature == 1:
        assert_same(match.probability, match.score)


def test_a_second_stage_that_knows_nothing_changes_no_order_by_log_odds() -> None:
    model = tiny_model()
    model.config.ranking_rule = "log_odds"
    for head in (model.text_image_match, model.image_text_match):
        torch.nn.init.zeros_(head.weight)
    gallery = gallery_of(model)
    for direction in DIRECTIONS:
        ranks = two_stage_ranks(model, gallery, direction, depth=4)
        assert ranks.ranking is not None
        assert torch.equal(ranks.pre_ranking, ranks.ranking)


def test_report_holds_both_directions_and_stages_and_the_mean_of_their_recalls() -> None:
    model = tiny_model()
    report = retrieval_report(model, gallery_of(model), depth=3)
    assert (report["gallery"], report["texts"], report["depth"]) == (5, 8, 3)
    for stage in ("pre_ranking", "ranking"):
        values = [value for direction in DIRECTIONS for value in report[direction][stage].values()]
        assert report["mean_recall"][stage] == pytest.approx(sum(values) / 6, abs=0.006)
    first, second = (report["text_to_image"][stage]["R@1"] for stage in ("pre_ranking", "ranking"))
    assert report["gain_R@1"]["mean"] == pytest.approx(second - first, abs=0.02)
    json.dumps(report, allow_nan=False)


def test_towers_alone_report_no_second_stage() -> None:
    model = tiny_model(cross_layers=0)
    report: dict[str, Any] = retrieval_report(model, gallery_of(model), depth=3)
    assert report["text_to_image"]["ranking"] is None
    assert report["mean_recall"]["ranking"] is None
    assert "gain_R@1" not in report


def test_evaluation_leaves_the_training_mode_as_it_was() -> None:
    model = tiny_model().train()
    two_stage_ranks(model, gallery_of(model), "text_to_image", 2)
    assert model.training


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_ranks_by_depth_are_those_of_a_second_stage_of_that_depth(direction):
    model = tiny_model()
    gallery = gallery_of(model)
    deepest = two_stage_ranks(model, gallery, direction, depth=5)
    assert [*deepest.by_depth] == [1, 2, 4, 5]
    for depth, ranks_Q in deepest.by_depth.items():
        assert torch.equal(ranks_Q, two_stage_ranks(model, gallery, direction, depth).ranking)
    assert torch.equal(deepest.by_depth[1], deepest.pre_ranking)
    towers = tiny_model(cross_layers=0)
    assert not two_stage_ranks(towers, gallery_of(towers), direction, depth=5).by_depth
