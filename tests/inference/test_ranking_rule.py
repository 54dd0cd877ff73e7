"""A ranking rule that is asked for is that of a model made for it, and leaves the model as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ccmb.core.choices import RankingRule
from ccmb.data.class_names import ImageClass
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.stages import EXACT_OPTIONS, R2D2Ranker, RankOptions
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.tasks.captioning.predict import Candidate, rank_candidates
from ccmb.tasks.classification.rerank import classify
from ccmb.tasks.matching.minimal_pairs import MinimalPair, score_minimal_pairs
from ccmb.tasks.retrieval.evaluate import evaluate, open_data
from tests.helpers.exact import PROOFS
from tests.helpers.galleries import gallery_of
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor
from tests.helpers.tuning import save_pairs

pytestmark = PROOFS

RULES: tuple[RankingRule, ...] = ("sum", "log_odds")


@pytest.mark.parametrize("asked", RULES)
@pytest.mark.parametrize("own", RULES)
def test_an_asked_rule_is_that_of_a_model_made_for_it(own: RankingRule, asked: RankingRule) -> None:
    model, made_for_it = tiny_model(ranking_rule=own), tiny_model(ranking_rule=asked)
    gallery, processor = gallery_of(model), tiny_processor()
    pairs = torch.tensor([0, 1, 4]), torch.tensor([7, 2, 0]), torch.tensor([0.1, 0.2, 0.3])
    options = RankOptions(cascade=2, ranking_rule=asked)
    ranker, expected = R2D2Ranker(model, options), R2D2Ranker(made_for_it, RankOptions(cascade=2))
    assert torch.equal(
        ranker.rank_scores(gallery.images, gallery.texts, *pairs),
        expected.rank_scores(gallery.images, gallery.texts, *pairs),
    )
    assert ranker.cascade is not None
    assert expected.cascade is not None
    assert torch.equal(
        ranker.cascade.scores(gallery.images, gallery.texts, *pairs),
        expected.cascade.scores(gallery.images, gallery.texts, *pairs),
    )

    minimal = [MinimalPair(0, TEXTS[0], TEXTS[1], "colour")]
    of_minimal = [
        score_minimal_pairs(
            R2D2Stages(network, processor, options=RankOptions(ranking_rule=rule)), gallery.images, minimal
        ).ranking
        for network, rule in ((model, asked), (made_for_it, None))
    ]
    assert torch.equal(of_minimal[0], of_minimal[1])  # type: ignore[arg-type]

    classes = [ImageClass((name,)) for name in ("猫", "小船", "雪山")]
    guesses = [
        classify(
            R2D2Stages(network, processor, options=RankOptions(ranking_rule=rule)),
            tiny_images(2),
            classes,
            top=2,
            depth=2,
        )
        for network, rule in ((model, asked), (made_for_it, None))
    ]
    assert [result.classes for result in guesses[0]] == [result.classes for result in guesses[1]]

    written = [[Candidate("一只猫", -1.0), Candidate(TEXTS[0], -2.0)]]
    captions = [
        rank_candidates(R2D2Captioner.from_r2d2(network, processor), processor, gallery.images, written, None, rule)
        for network, rule in ((model, asked), (made_for_it, None))
    ]
    assert captions[0] == captions[1]
    assert model.config.ranking_rule == own


def test_the_rules_differ() -> None:
    model, gallery = tiny_model(), gallery_of(tiny_model())
    pairs = torch.tensor([0, 1, 4]), torch.tensor([7, 2, 0]), torch.tensor([0.1, 0.2, 0.3])
    scores = [
        R2D2Ranker(model, RankOptions(ranking_rule=rule)).rank_scores(gallery.images, gallery.texts, *pairs)
        for rule in RULES
    ]
    assert not torch.equal(*scores)


def test_a_report_is_by_the_asked_rule(tmp_path: Path) -> None:
    data = save_pairs(tmp_path / "mine")
    of_set = open_data(data / "pairs.jsonl", data / "images", "val", ["texts"])
    model = tiny_model()
    asked = evaluate(R2D2Stages(model, tiny_processor(), options=RankOptions(ranking_rule="log_odds")), of_set).report
    expected = evaluate(R2D2Stages(tiny_model(ranking_rule="log_odds"), tiny_processor()), of_set).report
    del asked["seconds"], expected["seconds"]
    assert asked == expected
    assert (asked["ranking_rule"], model.config.ranking_rule) == ("log_odds", "sum")


def test_results_name_the_rule_only_where_it_is_not_the_models_own() -> None:
    assert EXACT_OPTIONS.to_dict() == {"precision": "fp32", "cascade": None}
    assert RankOptions("bf16", 3).to_dict() == {"precision": "bf16", "cascade": 3}
    assert RankOptions(ranking_rule="sum").to_dict() == {"precision": "fp32", "cascade": None, "ranking_rule": "sum"}
    assert RankOptions("auto", 3, "log_odds").on(tiny_model()).ranking_rule == "log_odds"
