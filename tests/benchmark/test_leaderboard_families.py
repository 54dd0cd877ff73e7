"""The leaderboard beyond retrieval: rows of matching and classification, and marks only where they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.leaderboard.columns import NOTHING, VIEWS
from ccmb.benchmark.leaderboard.html import render_leaderboard
from ccmb.benchmark.leaderboard.markdown import as_csv, markdown
from ccmb.benchmark.leaderboard.rows import Row, leaderboard, read_results
from ccmb.benchmark.results.result import (
    Captioning,
    CaptionMetrics,
    Classification,
    Data,
    Result,
    Stage,
)
from ccmb.benchmark.runner import run_benchmark
from ccmb.scenes.classification import write_class_folders
from ccmb.tasks.classification.classifier import accuracy_report
from tests.helpers.results import COUNT, around, matching
from tests.helpers.two_towers import save_r2d2, save_two_towers


def classification(model: str, right: float, seed: int = 0, **changes: object) -> Result:
    luck = torch.rand(COUNT, generator=torch.Generator().manual_seed(seed))
    ranks = 1 + (luck >= right).long()
    section = Classification(
        images=COUNT, classes=10, classes_with_images=10, class_list="x", ranks={"pre_ranking": ranks.tolist()},
        **accuracy_report(ranks, torch.arange(COUNT) % 10),
    )  # fmt: skip
    return around("classification", section, model, **{"prompt_set": "all", **changes})


def captioning(model: str, gain: float) -> Result:
    """Luck, of which re-ranking makes so much more."""
    luck = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
    cider: dict[Stage, list[float]] = {"pre_ranking": luck.tolist(), "ranking": (luck + gain).tolist()}
    metrics: dict[Stage, CaptionMetrics] = {
        stage: CaptionMetrics(
            cider_d=round(100 * sum(values) / COUNT, 2),
            bleu_1=50,
            bleu_4=20,
            rouge_l=40,
            match_score=None,
            interval=(0, 99),
        )
        for stage, values in cider.items()
    }
    section = Captioning(
        images=COUNT, references=COUNT, decoding={"beams": 5}, metrics=metrics, cider=cider, captions={}
    )
    return around("captioning", section, model)


def own_rows(results: list[Result]) -> dict[tuple[str, str], Row]:
    return {(row.model, row.stage): row for row in leaderboard(results) if row.origin == "ours"}


def test_matching_rows_are_of_both_stages_and_marked_by_a_paired_bootstrap() -> None:
    rows = own_rows([matching("good", 1.0), matching("bad", 0.5), matching("cosine", 0, ranks=False)])
    assert set(rows) == {
        ("good", "match score"), ("good", "cosine"), ("bad", "match score"), ("bad", "cosine"), ("cosine", "cosine"),
    }  # fmt: skip
    best = rows["good", "match score"]
    assert (best.mark, best.family, best.variant) == ("best", "matching", f"test, {COUNT} pairs of {COUNT} images")
    assert best.main is not None
    assert best.interval is not None
    assert best.interval[0] < best.main < best.interval[1]
    assert 50 < best.main < 100
    worse = rows["bad", "match score"]
    assert worse.mark == "worse"
    assert worse.difference is not None
    assert worse.difference.low < worse.difference.mean < worse.difference.high < 0
    assert "accuracy" not in rows["cosine", "cosine"].metrics
    # Of equal noise a small difference is a sure one; of other noise it is not.
    assert own_rows([matching("a", 1.0), matching("b", 0.95)])["b", "match score"].mark == "worse"
    assert own_rows([matching("a", 1.0), matching("b", 0.95, seed=1)])["b", "match score"].mark == "even"


def test_classification_is_compared_only_under_the_same_prompts() -> None:
    rows = own_rows(
        [classification("good", 0.8), classification("bad", 0.5), classification("other", 0.1, prompt_set="x")]
    )
    assert {model: row.mark for (model, _), row in rows.items()} == {"good": "best", "bad": "worse", "other": ""}
    good = rows["good", "pre-ranking"]
    assert good.metrics["top5"] == 100.0
    assert good.variant == f"test, {COUNT} images, 10 classes (x), prompts: all"


def test_families_are_never_compared_with_each_other() -> None:
    rows = own_rows([matching("a", 1.0, ranks=False), classification("b", 0.1)])
    assert {row.mark for row in rows.values()} == {""}


@pytest.mark.parametrize(("right", "mark"), [(0.999, "worse"), (0.2, "better")])
def test_published_accuracies_are_set_against_ours_on_as_many_images(right: float, mark: str) -> None:
    validation = Data(name="imagenet", split="val", revision="a", images=50_000, texts=1, unreadable=[])
    rows = leaderboard([classification("mine", right, data=validation)])
    published_rows = [row for row in rows if row.origin == "published" and row.set == "imagenet"]
    assert len(published_rows) == 17
    assert sum(row.mark == mark for row in published_rows) >= 12  # BriVL is within or below
    part = Data(name="imagenet", split="val", revision="a", images=10_000, texts=1, unreadable=[])
    assert not any(row.mark for row in leaderboard([classification("mine", right, data=part)]) if row.set == "imagenet")


def test_re_ranked_captions_are_set_against_those_of_the_beam_image_by_image() -> None:
    rows = own_rows([captioning("w", 0.1)])
    assert rows["w", "beam 5, re-ranked"].mark == "best"
    beam = rows["w", "beam 5"]
    assert beam.mark == "worse"
    assert beam.difference is not None
    assert beam.difference.low == beam.difference.high == pytest.approx(-10)


def test_every_form_has_a_part_for_each_family() -> None:
    rows = leaderboard([matching("m", 1.0), classification("c", 0.5), captioning("w", 0.1)])
    text, page = markdown(rows), render_leaderboard(rows)
    for view in VIEWS.values():
        assert f"\n## {view.title.en}\n" in text
        assert view.title.zh in page
    assert text.count(NOTHING.en) == 1  # of generation
    assert page.count('<table class="board">') == 4
    empty = [row for row in rows if row.family != "matching"]
    assert markdown(empty).count(NOTHING.en) == 2
    assert NOTHING.zh in render_leaderboard(empty)
    assert [line.split(",")[1] for line in as_csv(rows).splitlines()[1:]] == [row.family for row in rows]


def test_measured_results_of_all_families_stand_side_by_side(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "kinds", "kind", per_class=1, size=32)
    models = [str(save_r2d2(tmp_path / "r2d2")), str(save_two_towers(tmp_path / "clip", "clip"))]
    run_benchmark(
        models, [open_measured_set(str(tmp_path / "kinds"))], tmp_path / "out", Settings(draws=20, class_depth=2)
    )
    rows = own_rows(read_results([tmp_path / "out"]))
    assert set(rows) == {("r2d2", "pre-ranking"), ("r2d2", "ranking, top 2"), ("clip", "cosine")}
    assert sum(row.mark == "best" for row in rows.values()) == 1
