"""AUC and minimal pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccmb.tasks.matching import MinimalPair, MinimalPairScores, auc, minimal_pair_report, score_minimal_pairs
from tiny import TEXTS, tiny_batch, tiny_model, tiny_processor

scores = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_order_with_ties_counting_half(match: list[int], no_match: list[int]) -> None:
    won = sum((m > n) + (m == n) / 2 for m in match for n in no_match)
    labels = torch.tensor([1] * len(match) + [0] * len(no_match))
    values = torch.tensor(match + no_match).float() / 4
    assert auc(values, labels) == pytest.approx(won / len(match) / len(no_match))
    assert auc(values, labels.bool()) == auc(values, labels)
    assert auc(-values, labels) == pytest.approx(1 - auc(values, labels))


PAIRS = [
    MinimalPair(0, TEXTS[0], TEXTS[1], "colour"),
    MinimalPair(2, TEXTS[2], TEXTS[3], "place"),
    MinimalPair(1, TEXTS[4], TEXTS[5], "colour"),
]


@pytest.mark.parametrize("batch", [1, 2, 256])
@pytest.mark.parametrize("cross_layers", [0, 1])
def test_minimal_pairs_are_scored_as_the_model_scores_each_text(batch: int, cross_layers: int) -> None:
    model, processor, data = tiny_model(cross_layers=cross_layers), tiny_processor(), tiny_batch(3)
    with torch.no_grad():
        images = model.encode_image(data.pixel_values)
        found = score_minimal_pairs(model, processor, images, PAIRS, batch)
        assert (found.ranking is None) == (cross_layers == 0)
        for number, pair in enumerate(PAIRS):
            for column, text in enumerate((pair.text, pair.false_text)):
                encoded = model.encode_text(**processor.texts([text]))
                cosine = encoded.embed[0] @ images.embed[pair.image_index]
                torch.testing.assert_close(found.cosine[number, column], cosine)
                if found.ranking is not None:
                    index = torch.tensor([pair.image_index]), torch.tensor([0])
                    expected = cosine + model.rank(images, encoded, *index).score[0]
                    torch.testing.assert_close(found.ranking[number, column], expected)


def test_report_counts_strictly_higher_true_texts_by_stage_and_swap() -> None:
    cosine = torch.tensor([[0.5, 0.4], [0.3, 0.3], [0.1, 0.2]])
    ranking = torch.tensor([[0.5, 0.4], [1.2, 0.4], [0.6, 0.65]])
    report = minimal_pair_report(PAIRS, MinimalPairScores(cosine, ranking))
    assert report == {
        "pairs": 3,
        "pre_ranking": {"all": 33.33, "colour": 50.0, "place": 0.0},
        "ranking": {"all": 66.67, "colour": 50.0, "place": 100.0},
    }
    assert "ranking" not in minimal_pair_report(PAIRS, MinimalPairScores(cosine, None))
