"""A download that is killed at random moments goes on, asks for nothing twice, and ends as if it had never been."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from tests.helpers.image_web import draw_folder, links, options, results
from tests.helpers.killing import in_a_child, kill_in_a_child, trials_apart

TRIALS, COUNT, ROWS_PER_PART = 10, 120, 20


def finished_rows(out: Path, all_links: list[Any]) -> set[int]:
    """Numbers of the rows that are done for good."""
    from ccmb.corpus.download.parts import DownloadPart

    done = set(range(COUNT))
    for first in range(0, COUNT, ROWS_PER_PART):
        part = DownloadPart(out, first // ROWS_PER_PART, first, all_links[first : first + ROWS_PER_PART])
        if part.finished:
            continue
        if part.rows_file.exists():
            part._read_rows()
        done -= set(part.missing)
    return done


def trials(folder: Path) -> dict[str, Any]:
    """Kill TRIALS downloads at moments spread over the time that a whole one takes, then let each go on to its end."""
    import pyarrow
    import pyarrow.dataset

    from ccmb.corpus.download.run import download
    from ccmb.corpus.simulation.server import Faults, serve, statistics

    faults = Faults(not_found=0.1, error_once=0.1, damaged=0.05, html=0.05, redirect_private=0.05, opted_out=0.05)
    results_of_trials: dict[str, Any] = {"done_when_killed": [], "asked_twice": [], "wrong": []}
    with serve(draw_folder(folder / "pictures", COUNT), faults, seed=1, delay=0.01) as base:
        all_links = links(base, COUNT)

        def run(out: Path) -> None:
            download(all_links, COUNT, out, options(ROWS_PER_PART, {"image_size": 96}, connections=8))

        pyarrow.table({"imports": [1]})  # pandas among others, once, here: a trial is a fork
        assert in_a_child(lambda: run(folder / "warm")) == 0
        began = time.monotonic()
        assert in_a_child(lambda: run(folder / "whole")) == 0
        whole, rng = time.monotonic() - began, random.Random(0)
        for trial in range(TRIALS):
            out = folder / f"trial-{trial}"
            moment = whole * (trial + rng.random()) / TRIALS
            kill_in_a_child(lambda out=out: run(out), out, moment)
            done = finished_rows(out, all_links)
            before = statistics(base)["requests"]
            results_of_trials["done_when_killed"].append(len(done))
            assert in_a_child(lambda out=out: run(out)) == 0
            after = statistics(base)["requests"]
            results_of_trials["asked_twice"] += [row for row in done if after[f"{row}.jpg"] != before[f"{row}.jpg"]]
            if results(out) != results(folder / "whole"):
                results_of_trials["wrong"].append(trial)
    return results_of_trials


def test_killed_at_any_moment_a_download_goes_on_and_ends_as_never_stopped(tmp_path: Path) -> None:
    outcomes = trials_apart(trials, tmp_path)
    assert outcomes["wrong"] == []
    assert outcomes["asked_twice"] == []
    assert len(set(outcomes["done_when_killed"])) >= 3  # the moments are spread over the work
