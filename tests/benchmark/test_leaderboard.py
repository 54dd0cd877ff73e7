"""The leaderboard: what was published stands unchanged beside what was measured, and marks say only what holds."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ccmb.benchmark.leaderboard.columns import NOTHING
from ccmb.benchmark.leaderboard.html import render_leaderboard
from ccmb.benchmark.leaderboard.markdown import COLUMNS, METRICS, as_csv, markdown
from ccmb.benchmark.leaderboard.published import published
from ccmb.benchmark.leaderboard.rows import SETS, Row, leaderboard, read_results
from ccmb.core.errors import CcmbError
from tests.helpers.benchmark_data import save_set
from tests.helpers.results import result
from tests.helpers.runs import Command, command_line
from tests.helpers.two_towers import save_r2d2, save_two_towers


def own_rows(rows: list[Row]) -> dict[tuple[str, str], Row]:
    return {(row.model, row.stage): row for row in rows if row.origin == "ours"}


# --- marks


def test_marks_say_worse_only_where_the_interval_leaves_out_zero() -> None:
    results = [
        result("good", 0.8),
        result("near", 0.79, seed=1),
        result("bad", 0.4),
        result("alone", 0.3, set_name="x"),
    ]
    rows = own_rows(leaderboard(results))
    marks = {model: row.mark for (model, _), row in rows.items()}
    assert marks == {"good": "best", "near": "even", "bad": "worse", "alone": ""}
    bad, near = rows["bad", "cosine"].difference, rows["near", "cosine"].difference
    assert bad is not None
    assert near is not None
    assert bad.low < bad.mean < bad.high < 0
    assert near.low < 0 < near.high
    # Paired: of models that fail on the same queries a small difference is a sure one.
    paired = own_rows(leaderboard([result("good", 0.8), result("near", 0.77)]))
    assert paired["near", "cosine"].mark == "worse"


def test_only_like_is_compared_with_like() -> None:
    others = [
        result("tuned", 0.2, setting="fine-tuned"),
        result("newer", 0.2, revision="b" * 64),
        result("smaller", 0.2, images=100),
    ]
    rows = own_rows(leaderboard([result("first", 0.8), *others]))
    assert {row.mark for row in rows.values()} == {""}


def test_both_stages_are_rows_and_a_model_that_cannot_rank_says_so() -> None:
    rows = own_rows(leaderboard([result("two", 0.5, 0.9), result("one", 0.6)]))
    assert set(rows) == {("two", "pre-ranking"), ("two", "ranking, top 8"), ("one", "cosine")}
    assert rows["two", "ranking, top 8"].mark == "best"
    assert rows["two", "pre-ranking"].mark == rows["one", "cosine"].mark == "worse"


def test_published_rows_are_set_against_the_interval_of_ours_on_like_data() -> None:
    measured = result("mine", 0.87, set_name="flickr30k-cn", images=1000)
    rows = leaderboard([measured])
    [own] = own_rows(rows).values()
    assert own.interval is not None
    assert own.interval[0] < 87.0 < own.interval[1]
    assert own.mark == ""
    for row in rows:
        if row.origin == "published":
            counts = row.set == "flickr30k-cn" and row.setting == "zero-shot" and len(row.metrics) == 7
            if not counts or row.main is None:
                assert row.mark == ""
            elif row.main > own.interval[1]:
                assert row.mark == "better"
            else:
                assert row.mark == ("worse" if row.main < own.interval[0] else "even")
    # COCO-CN with 5,000 texts is not the one with 1,000.
    translated = leaderboard([result("mine", 0.8, set_name="coco-cn", images=1000)])
    assert not any(row.mark for row in translated)


# --- forms


def test_rows_come_by_set_and_setting_and_by_falling_mean_recall() -> None:
    rows = leaderboard([result("mine", 0.5), result("also", 0.8, set_name="muge")])
    published_sets = {row.set for row in published().rows}
    assert list(dict.fromkeys(row.set for row in rows)) == ["mine", *(name for name in SETS if name in published_sets)]
    groups = list(dict.fromkeys((row.set, row.setting) for row in rows))
    assert groups[1:3] == [("flickr30k-cn", "zero-shot"), ("flickr30k-cn", "fine-tuned")]
    for group in groups:
        means = [row.main for row in rows if (row.set, row.setting) == group]
        known = [mean for mean in means if mean is not None]
        assert known == sorted(known, reverse=True)
        assert means[: len(known)] == known  # those without one come last


def test_csv_holds_every_metric() -> None:
    rows = leaderboard([result("a", 0.5, 0.7), result('b,"c"', 0.4)])
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(read) == len(rows)
    assert tuple(read[0]) == COLUMNS
    for line, row in zip(read, rows, strict=True):
        assert (line["model"], line["origin"], line["mark"]) == (row.model, row.origin, row.mark)
        assert (line["family"], line["setting"]) == (row.family, row.setting)
        for key in METRICS:
            assert line[key] == str(row.metrics.get(key, ""))
        assert bool(line["low"]) == (row.origin == "ours")


def test_markdown_has_whole_tables_in_which_ours_are_bold() -> None:
    rows = leaderboard([result("a|b*c", 0.5, 0.7)])
    text = markdown(rows)
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == len({(row.set, row.setting) for row in rows})
    for table in tables:  # in each table all lines have as many cells
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    lines = [line for table in tables for line in table.splitlines()]
    assert NOTHING.en in text  # of matching
    assert sum(line.startswith("| **") for line in lines) == 2
    assert r"| **a\|b\*c** | test, 200 images, 1000 texts | pre-ranking |" in text
    numbers = set(map(int, re.findall(r"<sup>(\d+)</sup>", text)))
    assert numbers == set(map(int, re.findall(r"^(\d+)\. \[", text, re.MULTILINE)))


class _Page(HTMLParser):
    """What the page's elements say, and whether every one of them is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class _Cells(HTMLParser):
    """Kinds of a table's columns, and the values of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.heads: list[str | None] = []
        self.cells: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("scope") == "col":
            self.heads.append(attributes["class"])
        elif "data-value" in attributes:
            self.cells.append(attributes["data-value"])


def test_the_page_is_whole_needs_nothing_else_and_tells_ours_from_published() -> None:
    rows = leaderboard([result("<b>&", 0.5, 0.7)])
    text = render_leaderboard(rows)
    page = _Page(text)
    assert page.open == []
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    for tag, attributes in page.tags:
        assert tag != "link"
        assert not (attributes.keys() & {"src", "srcset"})
        assert (attributes.get("href") or "#").startswith("#")
    assert "http" not in text
    lines = [attributes for tag, attributes in page.tags if tag == "tr" and "class" in attributes]
    assert [line["class"] for line in lines] == [row.origin for row in rows]
    assert [line["data-set"] for line in lines] == [row.set for row in rows]
    assert [line["data-family"] for line in lines] == [row.family for row in rows]
    for part in text.split("<table")[1:]:  # columns of metrics hold metrics, or nothing
        table = _Cells(part)
        assert table.cells
        assert len(table.cells) % len(table.heads) == 0
        for column, kind in enumerate(table.heads):
            if kind == "n":
                assert all(float(value or 0) >= 0 for value in table.cells[column :: len(table.heads)])
    targets = {attributes["id"] for tag, attributes in page.tags if tag == "li"}
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} == {f"#{target}" for target in targets}


# --- the command line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capfd)


def test_rankings_have_a_curve_over_depth_below_their_ceiling() -> None:
    page = render_leaderboard(leaderboard([result("two", 0.4, ranked=0.6), result("one", 0.5)]))
    charts = re.findall(r'<svg class="chart"[^>]*aria-label="([^"]*)"', page)
    assert [label.partition(":")[0] for label in charts] == [
        "two, mine, test, 200 images, 1000 texts, " + words for words in ("text to image", "image to text")
    ]
    assert all(re.search(r"R@1 [\d.]+ of [\d.]+ at 8 candidates", label) for label in charts)
    assert "ceiling" not in render_leaderboard(leaderboard([result("one", 0.5)]))


def test_without_results_the_published_rows_stand_alone(command: Command) -> None:
    output = command("leaderboard")
    assert (output.code, output.err) == (0, "")
    count = len(published().rows)
    assert output.out == (
        f"0 rows measured here, {count} published: leaderboard/leaderboard.md, leaderboard/leaderboard.csv, "
        "leaderboard/leaderboard.html\n"
    )
    assert Path("leaderboard/leaderboard.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_results_of_the_benchmark_stand_in_all_three_forms(command: Command, tmp_path: Path) -> None:
    pairs = save_set(tmp_path / "drawn")
    models = ["-m", save_r2d2(tmp_path / "r2d2"), "-m", save_two_towers(tmp_path / "clip", "clip")]
    assert command("benchmark", *models, "-d", f"drawn={pairs}").code == 0
    output = command("leaderboard", "--json", "--out", "table")
    values = json.loads(output.out)
    assert values["rows"] == {"ours": 3, "published": len(published().rows)}
    texts = {form: Path(path).read_text(encoding="utf-8") for form, path in values["files"].items()}
    assert set(texts) == {"md", "csv", "html"}
    for text in texts.values():
        assert all(word in text for word in ("r2d2", "clip", "pre-ranking", "ranking, top 128", "drawn"))


def test_folders_without_results_are_named(command: Command, tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match=r"no results here; make some with `ccmb benchmark --out"):
        read_results([tmp_path])
    (tmp_path / "a.test").mkdir()
    (tmp_path / "a.test" / "x.json").write_text("[]", encoding="utf-8")
    output = command("leaderboard", tmp_path)
    assert (output.code, output.out, output.err.count("\n")) == (1, "", 1)
    assert "x.json: the file: Input should be a valid dictionary" in output.err
