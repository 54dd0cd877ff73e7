"""`ccmb benchmark --generate`: a painter measured with and without a choice, and its rows in the leaderboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.leaderboard.html import render_leaderboard
from ccmb.benchmark.leaderboard.markdown import as_csv, markdown
from ccmb.benchmark.leaderboard.rows import leaderboard, read_results
from ccmb.benchmark.results.result import read_result
from ccmb.benchmark.runner import run_benchmark
from ccmb.scenes.close_ups import write_close_ups
from ccmb.tasks.generation.predict import SamplingOptions
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.downstream_samples import write_ecommerce
from tests.helpers.generators import tiny_generator
from tests.helpers.tiny import tiny_processor
from tests.helpers.tuning import save_start

SETTINGS = Settings(draws=50, painting=SamplingOptions(steps=2, best_of=3))


def test_a_painter_is_measured_once_and_stands_in_the_leaderboard(tmp_path: Path) -> None:
    write_close_ups(tmp_path / "things", {"train": 1, "val": 1, "test": 6}, 32)
    save_model(tmp_path / "painter", tiny_generator(), tiny_processor())
    plain, out = save_start(tmp_path / "plain"), tmp_path / "results"
    sets = [open_measured_set(f"things={tmp_path / 'things' / 'pairs.jsonl'}", "test", ["query"], generate=True)]
    models = [str(tmp_path / "painter"), str(plain)]
    outcome = run_benchmark(models, sets, out, SETTINGS)
    [path], [failed] = outcome.measured, outcome.failed
    assert failed.startswith("plain on things: this model paints no images")
    assert run_benchmark(models[:1], sets, out, SETTINGS).skipped == [path]
    again = Settings(draws=50, painting=SamplingOptions(steps=2, best_of=3, seed=1))
    assert run_benchmark(models[:1], sets, out, again).measured == [path]
    result = read_result(path)
    section = result.generation
    assert section is not None
    assert (result.family, section.images, section.judge) == ("generation", 6, "painter")
    assert section.features == "R2D2 painter, image tower"
    first, best = (section.metrics[stage].match_score for stage in ("pre_ranking", "ranking"))
    assert best >= first == pytest.approx(sum(section.scores["pre_ranking"]) / 6, abs=0.01)
    rows = [row for row in leaderboard(read_results([out])) if row.origin == "ours"]
    assert {row.stage for row in rows} == {"one picture", "best of 3"}
    assert all({"FID", "KID"} <= row.metrics.keys() for row in rows)
    for text in (markdown(rows), as_csv(rows), render_leaderboard(rows)):
        assert "best of 3" in text


def test_ecommerce_t2i_is_measured_as_published(tmp_path: Path) -> None:
    save_model(tmp_path / "painter", tiny_generator(), tiny_processor())
    opened = open_measured_set(f"ecommerce-t2i={write_ecommerce(tmp_path / 't2i')}", "val")
    outcome = run_benchmark([str(tmp_path / "painter")], [opened], tmp_path / "out", SETTINGS)
    assert outcome.failed == []
    section = read_result(outcome.measured[0]).generation
    assert section is not None
    assert section.metrics["pre_ranking"].things is None
