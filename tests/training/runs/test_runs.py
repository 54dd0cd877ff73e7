"""`ccmb runs`: the table says what the logs say, and the curves hold every metric of every run."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.report.charts import overlay_chart
from ccmb.training.runs.page import COLOURS
from ccmb.training.runs.run_folder import read_run
from ccmb.training.runs.table import metrics_of, runs_table, summary
from tests.helpers.runs import command_line


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def write_run(folder: Path, steps: int = 40, joins: int = 20, rate: float = 80.0) -> Path:
    """A run of batches of 8, logged every tenth step, whose MLM joins late."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("training: {steps: 40, batch_size: 8}\n")
    lines = []
    for step in range(10, steps + 1, 10):
        line = {"step": step, "loss": 3.0 - step / 100, "gcpr": 2.0, "lr": 0.001, "samples_per_second": rate}
        lines.append(line | ({"mlm": 1.5} if step >= joins else {}) | {"own_figure": 7.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("batch", ["batch_size", "batch"])  # its name now, and in runs of older versions
def test_a_run_in_metrics(batch, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "recipe.yaml").write_text(f"training: {{steps: 40, {batch}: 8}}\n")
    run = read_run(folder)
    assert summary(run) == {
        "run": str(tmp_path / "run"), "step": 40, "steps": 40, "losses": {"loss": 2.6, "gcpr": 2.0, "mlm": 1.5},
        "samples_per_second": 80.0, "hours": round(40 * 8 / 80 / 3600, 3),
    }  # fmt: skip
    assert metrics_of([run]) == ["loss", "gcpr", "mlm", "lr", "samples_per_second", "own_figure"]
    assert run.points("mlm") == [(20, 1.5), (30, 1.5), (40, 1.5)]


def test_a_run_in_stages_has_the_steps_of_all_and_hours_by_the_batch_of_each(tmp_path):
    folder = write_run(tmp_path / "run")
    stages = "[{name: one, training: {steps: 20}}, {name: two, training: {steps: 30, batch_size: 16}}]"
    (folder / "recipe.yaml").write_text(f"training: {{steps: 20, batch_size: 8}}\nstages: {stages}\n")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {"stage": "one" if line["step"] <= 20 else "two"} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder)
    assert (run.step, run.steps) == (40, 50)
    assert run.hours == pytest.approx((20 * 8 + 20 * 16) / 80 / 3600)
    assert "stage" not in metrics_of([run])


def test_a_run_that_is_writing_just_now_or_has_no_recipe_can_be_read(tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    (folder / "recipe.yaml").unlink()
    with open(folder / "metrics.jsonl", "a") as log:
        log.write('{"step": 30, "lo')
    run = read_run(folder)
    assert (run.step, run.steps, run.hours) == (20, None, None)
    assert runs_table([run]).splitlines()[1].split()[-1] == "-"


def test_the_table_and_the_json(command, tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", steps=10)
    code, out, err = command("runs", one, other)
    assert (code, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split() == ["run", "step", "loss", "gcpr", "mlm", "samples/s", "hours"]
    assert first.split() == [str(one), "40/40", "2.600", "2.000", "1.500", "80.0", "0.00"]
    assert second.split() == [str(other), "10/40", "2.900", "2.000", "-", "80.0", "0.00"]
    assert json.loads(command("runs", one, "--json").out) == [summary(read_run(one))]


def test_the_page_holds_every_metric_of_every_run_and_needs_nothing_else(command, tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "<other>", steps=10)
    assert command("runs", one, other, "--out", tmp_path / "curves.html").code == 0
    page = (tmp_path / "curves.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert page.count('<svg class="chart"') == 6
    # Two runs everywhere, but one in MLM, which the other has not reached.
    assert (page.count(f"stroke:{COLOURS[0]}"), page.count(f"stroke:{COLOURS[1]}")) == (6, 5)
    assert "<other>" not in page
    assert "&lt;other&gt;" in page
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)


def test_the_image(command, tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", steps=10)
    assert command("runs", one, other, "--out", tmp_path / "curves.png").code == 0
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        seen = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
    for colour in COLOURS[:2]:
        assert tuple(bytes.fromhex(colour[1:])) in seen


def test_a_run_without_lines_is_no_reason_to_fail(command, tmp_path):
    folder = write_run(tmp_path / "run", steps=0)
    for name in ("curves.html", "curves.png"):
        assert command("runs", folder, "--out", tmp_path / name).code == 0


def test_a_quickstart_folder_is_its_run_and_others_are_refused_in_one_line(command, tmp_path):
    write_run(tmp_path / "quickstart" / "run")
    assert read_run(tmp_path / "quickstart").step == 40
    write_run(tmp_path / "runs" / "one")
    with pytest.raises(CcmbError, match=r"runs: no run folder .*; it holds: .*one"):
        read_run(tmp_path / "runs")
    code, out, err = command("runs", tmp_path / "gone")
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = command("runs", tmp_path / "quickstart", "--out", tmp_path / "curves.pdf")
    assert (code, out) == (2, "")
    assert ".html or .png" in err


def test_metrics_that_are_not_finite_leave_no_mark():
    assert overlay_chart([("red", [(1, float("nan"))]), ("blue", [])], (0, 2), "loss") == ""
    assert "nan" not in overlay_chart([("red", [(1, float("inf")), (2, 3.0)])], (0, 2), "loss")
