"""Metrics of captions: against the COCO evaluation's own code, against cases by hand, and what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.core.errors import UsageError
from ccmb.tasks.captioning import metrics as caption_metrics
from ccmb.tasks.captioning.metrics import characters, distinct, rouge_l, score_captions, words

TOKENS = st.lists(st.sampled_from("红蓝大小猫狗"), max_size=9)
REFERENCES = st.lists(st.lists(st.sampled_from("红蓝大小猫狗"), min_size=1, max_size=9), min_size=1, max_size=3)
CORPUS = st.lists(st.tuples(TOKENS, REFERENCES), min_size=2, max_size=8)


# Where no caption has four tokens, the COCO code takes 1e-6 for the precision of n-grams that there are none of.
@given(CORPUS.filter(lambda corpus: min(len(one) for one, _ in corpus) > 0 and max(len(one) for one, _ in corpus) > 3))
@settings(max_examples=60, deadline=None)
def test_metrics_are_those_of_the_coco_evaluation(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {index: [" ".join(one) for one in texts] for index, (_, texts) in enumerate(corpus)}
    generated = {index: [" ".join(caption)] for index, (caption, _) in enumerate(corpus)}
    expected = {
        f"BLEU-{n}": value for n, value in enumerate(Bleu(4).compute_score(truth, generated, verbose=0)[0], start=1)
    }
    expected |= {
        "ROUGE-L": Rouge().compute_score(truth, generated)[0],
        "CIDEr-D": Cider().compute_score(truth, generated)[0],
    }
    metrics = score_captions(*zip(*corpus, strict=True)).metrics()
    # Where no n-gram is right, the COCO code puts a tiny number in the place of 0.
    assert metrics == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=2e-2)


def test_bleu_by_hand() -> None:
    """两只红猫 beside 一只红猫跑: 3 of 4 characters, 2 of 3 pairs, 1 of 2 triples; and 4 where 5 were wanted."""
    metrics = score_captions([list("两只红猫")], [[list("一只红猫跑")]]).metrics()
    brevity = math.exp(1 - 5 / 4)
    assert metrics["BLEU-1"] == pytest.approx(100 * brevity * 3 / 4)
    assert metrics["BLEU-2"] == pytest.approx(100 * brevity * math.sqrt(3 / 4 * 2 / 3))
    assert metrics["BLEU-3"] == pytest.approx(100 * brevity * (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert metrics["BLEU-4"] == 0


def test_rouge_by_hand() -> None:
    """The longest common subsequence of 甲乙丙丁 and 甲丙丁戊己 is 甲丙丁: precision 3/4, recall 3/5."""
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l("甲乙丙丁", ["甲丙丁戊己"]) == pytest.approx(expected)
    assert rouge_l("", ["甲"]) == rouge_l("乙", ["甲"]) == 0


def test_cider_by_hand() -> None:
    """Two images, one reference each, all n-grams of one image alone: worth log 2 each. The caption 甲乙 is
    its reference, so that its cosines are 1 at orders one and two; there is nothing of orders three and four."""
    scores = score_captions(["甲乙", "丁"], [["甲乙"], ["丙丁"]])
    assert scores.cider[0] == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    # 丁 beside 丙丁: cosine 1/sqrt(2) at order one; one character too few.
    assert scores.cider[1] == pytest.approx(10 * (1 / math.sqrt(2)) / 4 * math.exp(-1 / 72))


@given(CORPUS)
@settings(max_examples=60, deadline=None)
def test_metrics_stay_in_their_range_and_references_score_best(
    corpus: list[tuple[list[str], list[list[str]]]],
) -> None:
    captions, references = zip(*corpus, strict=True)
    metrics = score_captions(captions, references).metrics()
    for name, value in metrics.items():
        assert 0 <= value <= (1000 if name == "CIDEr-D" else 100) + 1e-6
    perfect = score_captions([texts[0] for texts in references], references).metrics()
    assert perfect["BLEU-1"] == pytest.approx(100)
    assert perfect["ROUGE-L"] == pytest.approx(100)
    assert perfect["ROUGE-L"] >= metrics["ROUGE-L"] - 1e-9


@given(CORPUS, st.data())
@settings(max_examples=40, deadline=None)
def test_weights_count_captions_so_many_times(
    corpus: list[tuple[list[str], list[list[str]]]], data: st.DataObject
) -> None:
    scores = score_captions(*zip(*corpus, strict=True))
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(corpus), max_size=len(corpus)).filter(any))
    repeated = np.repeat(np.arange(len(corpus)), weights)
    many = caption_metrics.CaptionScores(*(getattr(scores, name)[repeated] for name in scores.__slots__))
    assert scores.metrics(np.array(weights)) == pytest.approx(many.metrics())


def test_what_counts_as_a_character() -> None:
    assert characters("3只 Cats,在T恤上。") == ["3", "只", "cats", "在", "t", "恤", "上"]
    assert characters("ＡＢ１２！") == ["ab12"]
    assert characters("。,!") == []


def test_words_name_their_segmenter_and_hold_no_punctuation() -> None:
    pytest.importorskip("rjieba")
    name, cut = words()
    assert name == "rjieba"
    assert "".join(cut("夜晚的草地上,有一只猫。")) == "夜晚的草地上有一只猫"
    assert len(cut("夜晚的草地上")) < 6


def test_without_a_segmenter_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "SEGMENTERS", ("no_such_segmenter",))
    with pytest.raises(UsageError, match="ccmb\\[captions\\]"):
        words()


def test_distinct_counts_different_ngrams() -> None:
    assert distinct(["甲乙甲", "甲"], 1) == pytest.approx(50)
    assert distinct(["甲乙甲", "甲"], 2) == pytest.approx(100)
    assert distinct([""], 1) == 0


def test_cider_of_a_single_image_is_no_number() -> None:
    """Every n-gram is in all of one image, and so worth log 1 = 0: there is nothing to compare by."""
    metrics = score_captions([list("红色的船")], [[list("红色的船")]]).metrics()
    assert metrics["BLEU-4"] == pytest.approx(100)
    assert math.isnan(metrics["CIDEr-D"])
