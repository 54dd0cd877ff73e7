"""A build that is killed at random moments goes on, and ends as if it had never been: nothing is lost or doubled."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import yaml

from ccmb.corpus.analysis.verify import verify_corpus
from ccmb.corpus.simulation.server import Faults, serve
from tests.helpers.corpus_web import RECIPE, draw_web, files_of, links_of
from tests.helpers.killing import ccmb_killed_when

TRIALS, COUNT = 10, 40
FAULTS = Faults(not_found=0.1, error_once=0.1, damaged=0.05)


def build(web: Path, out: Path, kill_at: int | None = None, further: float = 0.0) -> int:
    """See `ccmb_killed_when`; a build is killed when `out` holds so many files."""
    words = ["corpus", "build", web / "recipe.yaml", "--links", web / "links.jsonl", "--out", out]
    return ccmb_killed_when(words, None if kill_at is None else lambda: done(out) >= kill_at, further)


def done(out: Path) -> int:
    """How many files there are, as a sign of how far a build has come."""
    return sum(len(files) for _, _, files in os.walk(out))


@pytest.mark.slow
def test_killed_at_any_moment_a_build_goes_on_and_ends_as_never_stopped(tmp_path: Path) -> None:
    web, rng = draw_web(tmp_path / "web", COUNT), random.Random(0)
    (web / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    killed, states = 0, []
    with serve(web, FAULTS, seed=6, delay=0.02) as base:
        links_of(web, base)
        assert build(web, tmp_path / "whole") == 0
        whole = done(tmp_path / "whole")
        for trial in range(TRIALS):
            out = tmp_path / f"trial-{trial}"
            killed += build(web, out, round(whole * (trial + rng.random()) / TRIALS), rng.random() * 0.05) < 0
            states.append(done(out))
            assert build(web, out) == 0
            assert files_of(out) == files_of(tmp_path / "whole")
            assert not [path for path in out.rglob("*.tmp") if path.is_file()]
    assert verify_corpus(tmp_path / "trial-0").problems == []
    assert killed >= TRIALS - 2  # the last moments may come after a build's end
    assert len(set(states)) >= TRIALS // 2  # the moments are spread over the work
