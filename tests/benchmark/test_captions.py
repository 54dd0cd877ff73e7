"""`ccmb benchmark --captions`: a captioner measured with and without re-ranking, and its rows in the leaderboard."""

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
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.tiny import tiny_model, tiny_processor
from tests.helpers.tuning import save_pairs, save_start


def test_a_captioner_is_measured_once_and_stands_in_the_leaderboard(tmp_path: Path) -> None:
    data, out = save_pairs(tmp_path / "mine"), tmp_path / "results"
    captioner = R2D2Captioner.from_r2d2(tiny_model(), tiny_processor())
    save_model(tmp_path / "writer", captioner, tiny_processor())
    plain = save_start(tmp_path / "plain")
    sets = [open_measured_set(f"mine={data / 'pairs.jsonl'}", "test", images=data / "images", captions=True)]
    models, settings = [str(tmp_path / "writer"), str(plain)], Settings(draws=50)
    outcome = run_benchmark(models, sets, out, settings)
    [path], [failed] = outcome.measured, outcome.failed
    assert failed.startswith("plain on mine: this model writes no captions")
    assert run_benchmark(models[:1], sets, out, settings).skipped == [path]
    result = read_result(path)
    section = result.captioning
    assert section is not None
    assert (result.family, section.images, section.references, result.data.texts) == ("captioning", 8, 16, 16)
    for stage in ("pre_ranking", "ranking"):
        metrics = section.metrics[stage]
        assert metrics.cider_d == pytest.approx(100 * sum(section.cider[stage]) / 8, abs=0.01)
        assert len(section.captions[stage]) == 8
    rows = [row for row in leaderboard(read_results([out])) if row.origin == "ours"]
    assert {row.stage for row in rows} == {"beam 5", "beam 5, re-ranked"}
    for text in (markdown(rows), as_csv(rows), render_leaderboard(rows)):
        assert "re-ranked" in text
