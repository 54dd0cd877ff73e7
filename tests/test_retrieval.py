"""Two-stage retrieval: ranks and recalls against brute force, and both stages against the model itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ccmb.choices import Precision, RankingRule
from ccmb.r2d2.modeling import R2D2Model, TowerOutput
from ccmb.r2d2.ranking import chunk_sizes, in_bf16, preview_pairs, rank_pairs
from ccmb.tasks.candidates import Candidates, candidate_scores, pairs_to_rank
from ccmb.tasks.retrieval import (
    Direction,
    Gallery,
    bootstrap_gain,
    encode_gallery,
    pessimistic_ranks,
    recalls,
    retrieval_report,
    two_stage_ranks,
)
from ccmb.tasks.two_stage import R2D2Ranker, RankOptions
from tiny import TEXTS, tiny_model, tiny_pictures, tiny_processor

TEXTS_OF = [TEXTS[:2], TEXTS[2:3], TEXTS[3:6], TEXTS[6:7], TEXTS[7:8]]
DIRECTIONS: tuple[Direction, ...] = ("text_to_image", "image_to_text")


def gallery_of(model: R2D2Model, batch: int = 128) -> Gallery:
    pictures = tiny_pictures(len(TEXTS_OF))
    return encode_gallery(model, tiny_processor(), range(len(pictures)), TEXTS_OF, pictures.__getitem__, batch)


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
    assert bootstrap_gain(before, before, draws=200) == {"mean": 0.0, "low": 0.0, "high": 0.0}


# --- encoding


@pytest.mark.parametrize("batch", [2, 128])
def test_gallery_holds_every_text_in_order_beside_its_picture(batch: int) -> None:
    model, processor = tiny_model(), tiny_processor()
    gallery = gallery_of(model, batch)
    assert gallery.image_of_text.tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    with torch.no_grad():
        for place, text in enumerate(TEXTS):
            alone = model.encode_text(**processor.texts([text]))
            torch.testing.assert_close(gallery.texts.embed[place], alone.embed[0])
            length = alone.states.shape[1]
            torch.testing.assert_close(gallery.texts.states[place, :length], alone.states[0])
            assert gallery.texts.mask is not None
            assert int(gallery.texts.mask[place].sum()) == length
        pixels = processor.images(tiny_pictures(len(TEXTS_OF)))
        torch.testing.assert_close(gallery.images.embed, model.encode_image(pixels).embed)


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
                final[t, i] = cosine[t, i] / model.temperature + sum(of[0, 1] - of[0, 0] for of in log_odds)
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
        found = rank_pairs(model, gallery.images, gallery.texts, *index, batch)
        torch.testing.assert_close(found.score, expected.score)
        torch.testing.assert_close(found.log_odds, expected.log_odds)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_probability_is_the_mean_of_both_heads_softmax_at_the_temperature(temperature: float) -> None:
    model, processor = tiny_model(match_temperature=temperature), tiny_processor()
    index = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2])
    with torch.no_grad():
        images = model.encode_image(processor.images(tiny_pictures(3)))
        texts = model.encode_text(**processor.texts(TEXTS[:3]))
        output, match = model.rank(images, texts, *index), rank_pairs(model, images, texts, *index)
    heads = output.logits_text_image, output.logits_image_text
    expected = sum((logits / temperature).softmax(1)[:, 1] for logits in heads) / 2
    torch.testing.assert_close(match.probability, expected)
    torch.testing.assert_close(match.score, output.score)  # whatever the temperature
    torch.testing.assert_close(match.head_log_odds.sum(1), match.log_odds)
    if temperature == 1:
        torch.testing.assert_close(match.probability, match.score)


# --- what chooses candidates cheaply


@pytest.mark.parametrize("rule", ["sum", "log_odds"])
def test_a_preview_is_the_text_image_encoder_speaking_for_both(rule: RankingRule) -> None:
    model = tiny_model(ranking_rule=rule)
    gallery = gallery_of(model)
    index = torch.tensor([0, 4, 4, 2, 0]), torch.tensor([7, 0, 1, 1, 7])
    with torch.inference_mode():
        of_text = model.rank(gallery.images, gallery.texts, *index).logits_text_image
        found = preview_pairs(model, gallery.images, gallery.texts, *index)
    torch.testing.assert_close(found.score, of_text.softmax(1)[:, 1])
    torch.testing.assert_close(found.log_odds, 2 * (of_text[:, 1] - of_text[:, 0]))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cascade_orders_the_kept_exactly_and_the_rest_cheaply_behind_them(
    direction: Direction, keep: int, precision: Precision
) -> None:
    model = tiny_model()
    gallery, depth = gallery_of(model), 5
    ranker, by_text = R2D2Ranker(model, RankOptions(precision, keep)), direction == "text_to_image"
    queries, items = len(gallery.texts if by_text else gallery.images), 5
    shape = queries, items
    item_QK = torch.rand(shape).argsort(1)
    found = Candidates.empty(torch.arange(queries), items)
    found.item_QK[:], found.cosine_QK[:] = item_QK, torch.rand(shape)
    scores_QK = candidate_scores(ranker, gallery, by_text, found, lambda count, note: None)
    assert pairs_to_rank(ranker, depth) == depth + keep
    assert ranker.cascade is not None
    for query in range(queries):
        mine = torch.full((items,), query)
        sides = (item_QK[query], mine) if by_text else (mine, item_QK[query])
        given = gallery.images, gallery.texts, *sides, found.cosine_QK[query]
        cheap, exact = ranker.cascade.scores(*given), R2D2Ranker(model).rank_scores(*given)
        first = cheap.argsort(descending=True)
        wanted = [*first[:keep][exact[first[:keep]].argsort(descending=True)].tolist(), *first[keep:].tolist()]
        assert scores_QK[query].argsort(descending=True).tolist() == wanted
        torch.testing.assert_close(scores_QK[query, first[:keep]], exact[first[:keep]])


def test_a_cascade_that_keeps_all_is_none() -> None:
    model = tiny_model()
    gallery = gallery_of(model)
    for direction in DIRECTIONS:
        rankers = R2D2Ranker(model), R2D2Ranker(model, RankOptions("bf16", 3))
        exact, kept = (two_stage_ranks(of, gallery, direction, 3) for of in rankers)
        assert exact.ranking is not None
        assert kept.ranking is not None
        assert torch.equal(exact.ranking, kept.ranking)


def test_cross_encoders_in_bf16_say_nearly_the_same_and_leave_the_model_as_it_is() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gallery, half = gallery_of(model), in_bf16(model)
    index = torch.arange(5).repeat(8), torch.arange(8).repeat_interleave(5)
    with torch.inference_mode():
        exact, near = (rank_pairs(of, gallery.images, gallery.texts, *index) for of in (model, half))
    torch.testing.assert_close(near.score, exact.score, atol=0.03, rtol=0)
    assert not torch.equal(near.score, exact.score)
    assert half.image_tower is model.image_tower  # shared, not copied
    assert half.text_image_encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    assert half.text_image_match.weight.dtype == torch.float32
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 12))
def test_chunks_hold_all_pairs_and_pictures_with_many_have_their_own(counts: list[int], most: int) -> None:
    image_N = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    sizes = chunk_sizes(image_N, most)
    assert sum(sizes) == len(image_N)
    assert max(sizes) <= most
    for chunk in image_N.split(sizes):
        pictures = chunk.unique().tolist()
        assert len(pictures) == 1 or all(2 * counts[picture] <= most for picture in pictures)
        assert len(pictures) == 1 or sum(counts[picture] for picture in pictures) == len(chunk)  # none is torn


def test_no_pairs_have_no_scores() -> None:
    model = tiny_model()
    gallery, none = gallery_of(model), torch.empty(0, dtype=torch.long)
    assert rank_pairs(model, gallery.images, gallery.texts, none, none).score.shape == (0,)


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
