"""The benchmark of the corpus runs, and writes what all benchmarks write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import corpus as corpus_benchmark  # noqa: E402


def test_the_benchmark_prints_and_writes_its_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "corpus.json"
    corpus_benchmark.main(f"--impressions 3000 6000 --texts 0 --repeats 1 --json {path}".split())
    report = json.loads(path.read_text())
    assert set(report) == {"claims", "machine", "commit", "results"}
    first, second, memory = report["claims"]
    assert first["target"] == second["target"] == 100_000
    assert memory["unit"] == "x"
    for log, impressions in zip(report["results"]["logs"], (3000, 6000), strict=True):
        assert log["rows"] > impressions
        assert log["rows_per_second"] == pytest.approx(log["rows"] / log["seconds"][0])
        assert log["peak_bytes"] > 10**7
        assert sum(log["steps"].values()) <= log["seconds"][0]
    printed = capsys.readouterr().out
    assert all(claim["name"] in printed for claim in report["claims"])
