"""A second stage whose best candidates are chosen cheaply: the kept are ordered exactly, the rest stays behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.choices import Precision, RankingRule
from ccmb.inference.scoring import chunk_sizes, in_bf16, rank_pairs
from ccmb.inference.stages import R2D2Ranker, RankOptions
from ccmb.inference.two_stage import Candidates, Direction, candidate_scores, pairs_to_rank, two_stage_ranks
from tests.helpers.exact import PROOFS, assert_same
from tests.helpers.galleries import DIRECTIONS, gallery_of
from tests.helpers.tiny import tiny_model

pytestmark = PROOFS


@pytest.mark.parametrize("rule", ["sum", "log_odds"])
def test_a_preview_is_the_text_image_encoder_speaking_for_both(rule: RankingRule) -> None:
    model = tiny_model(ranking_rule=rule)
    gallery = gallery_of(model)
    index = torch.tensor([0, 4, 4, 2, 0]), torch.tensor([7, 0, 1, 1, 7])
    with torch.inference_mode():
        of_text = model.rank(gallery.images, gallery.texts, *index).logits_text_image
        match = rank_pairs(model, gallery.images, gallery.texts, *index, text_image_only=True)
    assert_same(match.score, of_text.softmax(1)[:, 1])
    assert_same(match.log_odds, 2 * (of_text[:, 1] - of_text[:, 0]))


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
    candidates = Candidates.empty(torch.arange(queries), items)
    candidates.item_QK[:], candidates.cosine_QK[:] = item_QK, torch.rand(shape)
    scores_QK = candidate_scores(ranker, gallery, by_text, candidates, lambda count, note: None)
    assert pairs_to_rank(ranker, depth) == depth + keep
    assert ranker.cascade is not None
    for query in range(queries):
        query_N = torch.full((items,), query)
        sides = (item_QK[query], query_N) if by_text else (query_N, item_QK[query])
        given = gallery.images, gallery.texts, *sides, candidates.cosine_QK[query]
        cheap, exact = ranker.cascade.scores(*given), R2D2Ranker(model).rank_scores(*given)
        first = cheap.argsort(descending=True)
        wanted = [*first[:keep][exact[first[:keep]].argsort(descending=True)].tolist(), *first[keep:].tolist()]
        assert scores_QK[query].argsort(descending=True).tolist() == wanted
        assert_same(scores_QK[query, first[:keep]], exact[first[:keep]])


def test_a_cascade_that_keeps_all_is_none() -> None:
    model = tiny_model()
    gallery = gallery_of(model)
    for direction in DIRECTIONS:
        rankers = R2D2Ranker(model), R2D2Ranker(model, RankOptions("bf16", 3))
        exact, kept = (two_stage_ranks(ranker, gallery, direction, 3) for ranker in rankers)
        assert exact.ranking is not None
        assert kept.ranking is not None
        assert torch.equal(exact.ranking, kept.ranking)


@pytest.mark.usefixtures("float32")
def test_cross_encoders_in_bf16_say_nearly_the_same_and_leave_the_model_as_it_is() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gallery, half = gallery_of(model), in_bf16(model)
    index = torch.arange(5).repeat(8), torch.arange(8).repeat_interleave(5)
    with torch.inference_mode():
        exact, near = (rank_pairs(chooser, gallery.images, gallery.texts, *index) for chooser in (model, half))
    # Two layers of three blocks, each of which rounds its states some four times, by 2^-9 of their size: 0.047 of the
    # logits' size, which is about 1 here, and the slope of a probability is at most a quarter.
    assert float((near.score - exact.score).abs().max()) < 24 * 2**-9
    assert not torch.equal(near.score, exact.score)
    assert half.image_tower is model.image_tower  # shared, not copied
    assert half.text_image_encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    assert half.text_image_match.weight.dtype == torch.float32
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 12))
def test_chunks_hold_all_pairs_and_images_with_many_have_their_own(counts: list[int], max_pairs: int) -> None:
    image_N = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    sizes = chunk_sizes(image_N, max_pairs)
    assert sum(sizes) == len(image_N)
    assert max(sizes) <= max_pairs
    for chunk in image_N.split(sizes):
        images = chunk.unique().tolist()
        assert len(images) == 1 or all(2 * counts[image] <= max_pairs for image in images)
        assert len(images) == 1 or sum(counts[image] for image in images) == len(chunk)  # none is torn


def test_no_pairs_have_no_scores() -> None:
    model = tiny_model()
    gallery, none = gallery_of(model), torch.empty(0, dtype=torch.long)
    assert rank_pairs(model, gallery.images, gallery.texts, none, none).score.shape == (0,)


def test_towers_alone_do_not_rank() -> None:
    model = tiny_model(cross_layers=0)
    gallery = gallery_of(model)
    with pytest.raises(ValueError, match="it can pre-rank but not rank"):
        rank_pairs(model, gallery.images, gallery.texts, torch.tensor([0]), torch.tensor([0]))
