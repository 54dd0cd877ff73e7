"""Results in the terminal: a row for each stage, with its cost."""

from __future__ import annotations

import pytest

from ccmb.benchmark.leaderboard.terminal import print_results
from ccmb.benchmark.results.result import Cost
from tests.helpers.results import result as make_result


def test_each_stage_has_a_row_with_metrics_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    result = make_result("model-of-mine", 0.3, 0.4)
    cost = Cost(parameters=12_345_678, bytes_per_image=4096, images_per_second=34.5, pairs_per_second=2.5)
    print_results([result.model_copy(update={"cost": cost})], width=200)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if result.model.name in line]
    assert len(lines) == len(result.stages)
    for line in lines:
        assert "12.3 M" in line
        assert " 34 " in line or " 35 " in line
        assert " 2.5 " in line
    assert "txt/s" not in out  # nothing measured it
