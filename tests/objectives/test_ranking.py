"""FGR: how hard negatives are drawn, and the match loss against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ccmb.objectives.config import Ranking, hardness_at
from ccmb.objectives.pre_ranking import positive_mask
from ccmb.objectives.ranking import (
    IGNORED,
    MatchPairs,
    draw_pairs,
    fgr_loss,
    hard_negative_weights,
    listwise_fgr_loss,
    sample_from_cdf,
    taught_by_ranker_loss,
)
from tests.helpers.exact import PROOFS, assert_same, same

pytestmark = PROOFS

image_ids = st.lists(st.integers(0, 3), min_size=2, max_size=7)


def similarities(count: int, seed: int, scale: float) -> Tensor:
    return scale * torch.randn(count, count, generator=torch.Generator().manual_seed(seed))


@given(image_ids, st.integers(0, 100), st.sampled_from([0.0, 1.0, 30.0, 1000.0]), st.floats(0, 1))
def test_weights_sum_to_one_and_leave_positives_out(ids: list[int], seed: int, scale: float, hardness: float) -> None:
    positives = positive_mask(torch.tensor(ids))
    weights = hard_negative_weights(similarities(len(ids), seed, scale), positives, hardness)
    assert_same(weights.sum(1), torch.ones(len(ids)))
    has_negative = ~positives.all(1)
    assert not weights[has_negative][positives[has_negative]].any()


@given(image_ids, st.integers(0, 100))
def test_weights_are_the_plain_softmax_over_the_negatives(ids: list[int], seed: int) -> None:
    similarity = similarities(len(ids), seed, 3.0)
    weights = hard_negative_weights(similarity, positive_mask(torch.tensor(ids)))
    for i, row in enumerate(similarity.double()):
        negatives = [j for j in range(len(ids)) if ids[j] != ids[i]]
        total = sum(float(row[j].exp()) for j in negatives)
        for j in negatives:
            assert float(weights[i, j]) == same(float(row[j].exp()) / total)


def test_no_hardness_draws_evenly() -> None:
    weights = hard_negative_weights(similarities(4, 0, 50.0), torch.eye(4, dtype=torch.bool), hardness=0.0)
    assert_same(weights, (1 - torch.eye(4)) / 3)


@given(image_ids, st.integers(0, 100), st.floats(0, 1))
def test_hardness_is_the_share_of_hard_draws(ids: list[int], seed: int, hardness: float) -> None:
    similarity, positives = similarities(len(ids), seed, 5.0), positive_mask(torch.tensor(ids))
    hard, even = (hard_negative_weights(similarity, positives, share) for share in (1.0, 0.0))
    mixed = hard_negative_weights(similarity, positives, hardness)
    assert_same(mixed, hardness * hard + (1 - hardness) * even)


def test_a_single_far_negative_is_still_drawn() -> None:
    similarity = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]])
    assert hard_negative_weights(similarity, torch.eye(2, dtype=torch.bool)).tolist() == [[0, 1], [1, 0]]


def drawn(similarity_BB: Tensor, positives_BB: Tensor, rows: Tensor, seed: int = 0) -> MatchPairs:
    """The pairs of some rows of one process."""
    uniform = torch.rand(len(rows), 2, generator=torch.Generator().manual_seed(seed))
    return draw_pairs(similarity_BB[rows], similarity_BB.T[rows], positives_BB[rows], rows, uniform)


def test_a_draw_climbs_the_ladder_of_probabilities() -> None:
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(5, 1)
    columns = sample_from_cdf(weights, torch.tensor([0.0, 0.2499, 0.25, 0.9, 1 - 2**-24]))
    assert columns.tolist() == [1, 1, 3, 3, 3]


def test_a_diverged_network_does_not_stop_the_draw() -> None:
    pairs = drawn(torch.full((3, 3), torch.nan), torch.eye(3, dtype=torch.bool), torch.arange(3))
    assert (pairs.image_index[3:] != pairs.text_index[3:]).all()


@given(image_ids, st.integers(0, 1000), st.data())
def test_pairs_are_positives_then_wrong_images_then_wrong_texts(ids: list[int], seed: int, data: st.DataObject) -> None:
    rows = torch.arange(data.draw(st.integers(1, len(ids))))
    positives = positive_mask(torch.tensor(ids))
    pairs = drawn(similarities(len(ids), seed, 20.0), positives, rows, seed)
    image, text, labels = (part.view(3, -1) for part in (pairs.image_index, pairs.text_index, pairs.labels))
    assert torch.equal(image[0], rows)
    assert torch.equal(text[0], rows)
    assert torch.equal(text[1], rows)
    assert torch.equal(image[2], rows)
    assert (labels[0] == 1).all()
    alone = positives[rows].all(1)
    for negative in (1, 2):
        assert torch.equal(labels[negative], torch.where(alone, IGNORED, 0))
        assert torch.equal(positives[image[negative], text[negative]], alone)


def test_negatives_come_as_often_as_their_weights_say() -> None:
    similarity = torch.tensor([[9.0, 0.0, 1.0], [-1.0, 9.0, 0.5], [2.0, 0.3, 9.0]])
    positives = torch.eye(3, dtype=torch.bool)
    draws = 4000
    rows = torch.arange(3).repeat(draws)
    pairs = drawn(similarity, positives, rows)
    _, wrong_images, _ = pairs.image_index.view(3, -1)
    _, _, wrong_texts = pairs.text_index.view(3, -1)
    images, texts = (
        torch.bincount(3 * rows + wrong, minlength=9).view(3, 3) / draws for wrong in (wrong_images, wrong_texts)
    )
    # Four standard deviations of a share of 4000 draws are 0.032 at most.
    assert float((texts - hard_negative_weights(similarity, positives)).abs().max()) < 0.03
    assert float((images - hard_negative_weights(similarity.T, positives)).abs().max()) < 0.03


def plain_fgr(text_image: Tensor, image_text: Tensor, labels: list[int]) -> Tensor:
    total = torch.zeros((), dtype=torch.double)
    for logits in (text_image, image_text):
        loss, weights = torch.zeros((), dtype=torch.double), 0.0
        for row, label in zip(logits, labels, strict=True):
            if label != IGNORED:
                weight = 2.0 if label == 1 else 1.0
                loss = loss - weight * (row[label] - row.exp().sum().log())
                weights += weight
        total = total + loss / weights / 2
    return total


@pytest.mark.parametrize("labels", [[1, 1, 0, 0, 0, 0], [1, 1, 0, IGNORED, 0, IGNORED], [1]])
def test_match_loss_and_gradients_equal_the_plain_weighted_mean(labels: list[int]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(len(labels), 2, requires_grad=True) for _ in range(2)]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    loss, plain = fgr_loss(*inputs, torch.tensor(labels)), plain_fgr(*doubles, labels)
    assert_same(loss.double(), plain)
    for gradient, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, doubles), strict=True):
        assert_same(gradient.double(), expected)


def test_hardness_grows_from_the_start_to_its_full_value() -> None:
    fgr = Ranking(start_at=0.2, harden_until=0.6, hardness=0.8)
    assert [hardness_at(fgr, p) for p in (0.2, 0.4, 0.6, 0.9)] == same([0.0, 0.4, 0.8, 0.8])
    assert hardness_at(Ranking(start_at=0.2), 0.2) == 1.0


def test_the_listwise_loss_is_the_mean_over_rows_directions_and_encoders_of_what_the_positives_lack() -> None:
    generator = torch.Generator().manual_seed(0)
    log_odds_BBE = torch.randn(4, 4, 2, generator=generator, dtype=torch.double)  # of texts with images
    positives_BB = torch.eye(4, dtype=torch.bool)
    positives_BB[1, 2] = positives_BB[2, 1] = True  # two pairs of one image
    total = 0.0
    for encoder in range(2):
        for row in range(4):
            own = positives_BB[row].nonzero().flatten().tolist()
            for scores in (log_odds_BBE[row, :, encoder], log_odds_BBE[:, row, encoder]):
                exponentials = scores.exp()
                total -= sum(math.log(exponentials[one] / exponentials.sum()) for one in own) / len(own)
    loss = listwise_fgr_loss(log_odds_BBE, log_odds_BBE.transpose(0, 1), positives_BB, positives_BB)
    assert float(loss) == pytest.approx(total / 16)


def test_towers_are_taught_the_distance_from_the_ranking_by_plain_loops_and_the_ranker_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity_RB = torch.randn(3, 5, generator=generator, dtype=torch.double, requires_grad=True)
    log_odds_RBE = torch.randn(3, 5, 2, generator=generator, dtype=torch.double, requires_grad=True)
    ignored_RB = torch.zeros(3, 5, dtype=torch.bool)
    ignored_RB[1, 3] = True
    loss = taught_by_ranker_loss(similarity_RB, log_odds_RBE, 0.5, ignored_RB)
    total = 0.0
    for row in range(3):
        columns = [column for column in range(5) if not ignored_RB[row, column]]
        s = [float(similarity_RB[row, column]) for column in columns]
        ranking = [one + 0.5 * float(log_odds_RBE[row, column].sum()) for one, column in zip(s, columns, strict=True)]
        p, q = ([math.exp(one) / sum(map(math.exp, scores)) for one in scores] for scores in (ranking, s))
        total += sum(ours * math.log(ours / theirs) for ours, theirs in zip(p, q, strict=True))
    assert float(loss) == pytest.approx(total / 3)
    loss.backward()
    assert log_odds_RBE.grad is None
    assert similarity_RB.grad is not None
    assert torch.isfinite(similarity_RB.grad).all()
    assert float(similarity_RB.grad[1, 3]) == 0
    # Where the cross encoders say nothing there is nothing to learn.
    assert float(taught_by_ranker_loss(similarity_RB, torch.ones(3, 5, 2).double(), 0.5)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="teach_towers needs negatives: all"):
        Ranking(teach_towers=1.0)
