"""AUC, minimal pairs, and one text against some images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.tasks.matching.metrics import auc
from ccmb.tasks.matching.minimal_pairs import MinimalPair, MinimalPairScores, minimal_pair_report, score_minimal_pairs
from ccmb.tasks.matching.predict import match_images
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import TEXTS, tiny_batch, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

scores = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_order_with_ties_counting_half(match: list[int], no_match: list[int]) -> None:
    won = sum((m > n) + (m == n) / 2 for m in match for n in no_match)
    labels = torch.tensor([1] * len(match) + [0] * len(no_match))
    values = torch.tensor(match + no_match).float() / 4
    assert auc(values, labels) == same(won / len(match) / len(no_match))
    assert auc(values, labels.bool()) == auc(values, labels)
    assert auc(-values, labels) == same(1 - auc(values, labels))


@pytest.mark.parametrize("levels", [0, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns(levels: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(seed)
    values, labels = torch.rand(60, generator=generator), torch.rand(60, generator=generator) < 0.3
    if levels:
        values = (values * levels).floor() / levels
    assert auc(values, labels) == same(metrics.roc_auc_score(labels.numpy(), values.numpy()))


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
        scores = score_minimal_pairs(R2D2Stages(model, processor), images, PAIRS, batch=batch)
        assert (scores.ranking is None) == (cross_layers == 0)
        for number, pair in enumerate(PAIRS):
            for column, text in enumerate((pair.text, pair.false_text)):
                encoded = model.encode_text(**processor.texts([text]))
                cosine = encoded.embed[0] @ images.embed[pair.image_index]
                assert_same(scores.cosine[number, column], cosine)
                if scores.ranking is not None:
                    index = torch.tensor([pair.image_index]), torch.tensor([0])
                    expected = cosine + model.rank(images, encoded, *index).score[0]
                    assert_same(scores.ranking[number, column], expected)


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


# --- one text against some images


@pytest.mark.parametrize("batch", [2, 64])
def test_each_image_is_matched_as_the_model_matches_it_alone(batch: int, tmp_path: Path) -> None:
    model, processor, images = tiny_model(match_temperature=2.0), tiny_processor(), tiny_images(5)
    images[1].save(tmp_path / "图.png")
    given: list[Any] = [images[0], tmp_path / "图.png", *images[2:4], np.asarray(images[4])]
    results = match_images(R2D2Stages(model, processor), TEXTS[0], given, batch=batch)
    zero = torch.tensor([0])
    with torch.no_grad():
        text = model.encode_text(**processor.texts([TEXTS[0]]))
        for result, image in zip(results, images, strict=True):
            encoded = model.encode_image(processor.images([image]))
            output = model.rank(encoded, text, zero, zero)
            heads = torch.cat([output.logits_text_image, output.logits_image_text])
            assert result.cosine == same(float(encoded.embed[0] @ text.embed[0]))
            assert result.score == same(float(output.score))
            assert result.probability == same(float((heads / 2).softmax(1)[:, 1].mean()))
            assert (result.match, result.error) == (None, None)
    assert [result.image for result in results[:4]] == given[:4]


def test_the_verdict_is_whether_the_probability_reaches_the_least_one() -> None:
    model, processor, images = tiny_model(match_temperature=2.0), tiny_processor(), tiny_images(6)
    chances = [result.probability for result in match_images(R2D2Stages(model, processor), TEXTS[0], images)]
    min_probability = sorted(chance for chance in chances if chance is not None)[3]
    results = match_images(R2D2Stages(model, processor), TEXTS[0], images, min_probability)
    assert [result.match for result in results] == [
        chance is not None and chance >= min_probability for chance in chances
    ]
    assert sum(bool(result.match) for result in results) == 3
    assert all(result.match for result in match_images(R2D2Stages(model, processor), TEXTS[0], images, 0))


def test_unreadable_images_are_marked_unless_there_is_no_other(tmp_path: Path) -> None:
    model, processor, good = tiny_model(match_temperature=2.0), tiny_processor(), tiny_images(1)[0]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    gone, bad = tmp_path / "gone.png", tmp_path / "bad.png"
    results = match_images(R2D2Stages(model, processor), TEXTS[0], [gone, good, bad], 0.0, batch=2)
    assert [bool(result.error) for result in results] == [True, False, True]
    assert results[0].error == f"{gone}: no such image"
    assert [(result.cosine, result.probability, result.match) for result in results[::2]] == [(None, None, None)] * 2
    assert results[1].match is True
    with pytest.raises(CcmbError, match=r"^\S+/gone\.png: no such image$"):
        match_images(R2D2Stages(model, processor), TEXTS[0], [gone])
    with pytest.raises(CcmbError, match=r"none of the images could be read \(.*gone\.png: no such image\)"):
        match_images(R2D2Stages(model, processor), TEXTS[0], [gone, bad])
    assert match_images(R2D2Stages(model, processor), TEXTS[0], []) == []


def test_towers_alone_give_the_cosine_and_no_verdict() -> None:
    model, processor, images = tiny_model(cross_layers=0), tiny_processor(), tiny_images(2)
    results = match_images(R2D2Stages(model, processor), TEXTS[0], images)
    assert all(result.cosine is not None and result.score is None and result.probability is None for result in results)
    with pytest.raises(UsageError, match="needs a second stage"):
        match_images(R2D2Stages(model, processor), TEXTS[0], images, 0.5)


def test_a_model_that_is_not_calibrated_gives_no_probability_and_no_verdict() -> None:
    model, processor, images = tiny_model(), tiny_processor(), tiny_images(2)
    for result in match_images(R2D2Stages(model, processor), TEXTS[0], images):
        assert result.score is not None
        assert (result.probability, result.match) == (None, None)
    with pytest.raises(UsageError, match=r"min_probability: .* a calibrated model: run ccmb calibrate"):
        match_images(R2D2Stages(model, processor), TEXTS[0], images, 0.5)


@pytest.mark.parametrize("text", ["", " \n\u3000"])
def test_an_empty_text_matches_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="the text to match is empty"):
        match_images(R2D2Stages(tiny_model(), tiny_processor()), text, tiny_images(1))


@pytest.mark.parametrize("min_probability", [-0.1, 1.1, float("nan")])
def test_a_least_probability_outside_its_range_is_refused(min_probability: float) -> None:
    with pytest.raises(UsageError, match="give a number between 0 and 1"):
        match_images(R2D2Stages(tiny_model(), tiny_processor()), TEXTS[0], tiny_images(1), min_probability)
