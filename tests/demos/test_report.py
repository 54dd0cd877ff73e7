"""The report page: its charts, its choice of examples, and that it says what the metrics say and needs nothing else."""

from __future__ import annotations

import re
from copy import deepcopy
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccmb.data.sample import Sample
from ccmb.demos.report.examples import choose, gather_examples
from ccmb.demos.report.galleries import images_shown
from ccmb.demos.report.page import render_page, result_in_words
from ccmb.inference import stages
from ccmb.inference.gallery import Gallery
from ccmb.inference.scoring import Match
from ccmb.inference.two_stage import Ranks
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.report.charts import Frame, line_chart, moving_mean, ticks
from ccmb.report.markup import data_uri, differing_chinese_text, duration
from ccmb.tasks.matching.minimal_pairs import MinimalPair, MinimalPairScores
from ccmb.tasks.retrieval.evaluate import Evaluation

VOID = {"meta", "input", "img", "br", "line", "circle", "polyline"}


def recalls(*values: float) -> dict[str, float]:
    return dict(zip(("R@1", "R@5", "R@10"), values, strict=True))


def accuracy(top1: float) -> dict[str, Any]:
    interval = {name: [top1 - 1, top1 + 1] for name in ("top1", "top5")}
    return {"classes": 26, "pictures": 208, "top1": top1, "top5": top1, "interval": interval}


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "retrieval": {
            "gallery": 1000,
            "texts": 1000,
            "depth": 32,
            "text_to_image": {"pre_ranking": recalls(47.3, 79.1, 88.6), "ranking": recalls(58.9, 84.2, 90.3)},
            "image_to_text": {"pre_ranking": recalls(46.4, 78.7, 87.9), "ranking": recalls(57.6, 83.8, 90.1)},
            "gain_R@1": {"mean": 11.6, "low": 9.4, "high": 13.9},
            "mean_recall": {"pre_ranking": 71.32, "ranking": 77.48},
        },
        "minimal_pairs": {
            "pairs": 1500,
            "pre_ranking": {"all": 51.7, "colour": 50.2},
            "ranking": {"all": 82.4, "colour": 86.5},
        },
        "classification": {"drawn": {"kind": {"trained": accuracy(61.5), "untrained": accuracy(3.4)}}},
        "objectives": ["GCPR", "FGR", "MLM", "TgD", "FgD"],
        "objectives_off": [],
        "model": {"parameters": 7412338, "steps": 20},
        "seconds": {"draw": 12.5, "train": 592.0, "total": 700.0},
        "machine": {"system": "Linux", "device": "CPU", "cores": 2, "python": "3.11.9"},
        "libraries": {"torch": "2.13.0"},
        "next": [{"zh": "检索", "en": "Search", "command": "ccmb search '红色 & 小船' --index quickstart/index"}],
    }


@pytest.fixture
def examples() -> dict[str, Any]:
    shown = {"why": "mended", "text": "一只<红色>的小船", "picture": "b.jpg", "rank": {"pre_ranking": 2, "ranking": 1}}
    rows = {"pre_ranking": ["a.jpg", "b.jpg"], "ranking": ["b.jpg", "a.jpg"]}
    pair = {
        "why": "random",
        "picture": "c.jpg",
        "text": "红船在蓝车左边",
        "false_text": "蓝船在红车左边",
        "swap": "colour",
        "scores": {"pre_ranking": [0.512, 0.523], "ranking": [1.434, 0.615]},
        "right": {"pre_ranking": False, "ranking": True},
    }
    searches = {"queries": 1000, "mended": 171, "worsened": 55, "shown": [shown | rows]}
    return {"seed": 7, "searches": searches, "minimal_pairs": [pair]}


METRICS = [
    {"step": step, "loss": 5.0 - step / 10, "gcpr": 4.0 - step / 10, "temperature": 0.07, "samples_per_second": 90.0}
    | ({"fgr": 0.6, "mlm": 4.0, "tgd": 3.0, "fgd": 0.3} if step > 6 else {})
    for step in range(2, 22, 2)
]
CORPUS = {
    "counts": {"train": 20000, "val": 500, "test": 1000},
    "shown": [{"image": "d.jpg", "query": "小船", "title": "红色小船", "captions": ["湖上有一只红色的小船"]}],
}
URIS = {name: data_uri(Image.new("RGB", (32, 32), colour)) for name, colour in zip(
    ("a.jpg", "b.jpg", "c.jpg", "d.jpg"), ("red", "green", "blue", "white"), strict=True
)}  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are balanced, and collects texts and whatever the page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in {"src", "href", "srcset", "data", "poster"}]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data
            if self.rows and {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data


def test_the_page_is_well_formed_and_loads_nothing_from_outside(report: Any, examples: Any) -> None:
    page = render_page(report, examples, METRICS, CORPUS, URIS)
    loads = Page(page).loads
    assert len(loads) == 6
    assert all(address.startswith("data:image/jpeg;base64,") for address in loads)
    assert not re.search(r"https?:|@import|url\(|<link", page)


def test_the_page_holds_the_metrics_of_the_report(report: Any, examples: Any) -> None:
    rows = [" ".join(row) for row in Page(render_page(report, examples, METRICS, CORPUS, URIS)).rows]
    for direction in ("text_to_image", "image_to_text"):
        for stage in ("pre_ranking", "ranking"):
            metrics = " ".join(f"{value:.1f}" for value in report["retrieval"][direction][stage].values())
            assert sum(metrics in row for row in rows) == 1
    assert any("+11.6" in row and "[+9.4, +13.9]" in row for row in rows)
    assert any("9 min 52 s" in row for row in rows)
    text = Page(render_page(report, examples, METRICS, CORPUS, URIS)).text
    for metric in (
        "61.5 [60.5, 62.5]",
        "3.4 [2.4, 4.4]",
        "77.5",
        "82.4",
        "50.2",
        "86.5",
        "7,412,338",
        "20,000",
        "1.434",
        "171",
        "55",
    ):
        assert metric in text


def test_texts_and_commands_are_escaped(report: Any, examples: Any) -> None:
    examples["minimal_pairs"][0]["text"] = '<script>alert("x")</script>'
    page = render_page(report, examples, METRICS, CORPUS, URIS)
    assert "<红色>" not in page
    assert "&lt;红色&gt;" in page
    assert "<script>alert" not in page
    assert "红色 &amp; 小船" in page
    Page(page)


def test_the_right_image_is_framed_in_each_row_and_verdicts_are_marked(report: Any, examples: Any) -> None:
    page = render_page(report, examples, METRICS, CORPUS, URIS)
    framed = re.findall(r'<div class="(tile(?: right)?)"><img src="([^"]+)"', page)
    right = [(kind == "tile right", uri == URIS["b.jpg"]) for kind, uri in framed]
    assert right == [(False, False), (True, True), (True, True), (False, False)]
    assert re.findall(r'<td class="(good|bad)">', page) == ["bad", "good"]


def test_objectives_that_were_off_are_named_and_ranking_without_fgr_is_not_trusted(report: Any, examples: Any) -> None:
    report["objectives"], report["objectives_off"] = ["GCPR", "TgD"], ["FGR", "MLM", "FgD"]
    metrics = [{key: value for key, value in line.items() if key not in {"fgr", "mlm", "fgd"}} for line in METRICS]
    text = Page(render_page(report, examples, metrics, CORPUS, URIS)).text
    assert "Switched off: FGR, MLM, FgD." in text
    assert text.count("switched off") == 3
    assert "FGR was off, so nothing trained the match heads" in text


def test_all_objectives_on_gives_no_warning_and_says_when_they_joined(report: Any, examples: Any) -> None:
    text = Page(render_page(report, examples, METRICS, CORPUS, URIS)).text
    assert "All five objectives of the paper were on." in text
    assert text.count("from about step 8") == 4
    assert "nothing trained the match heads" not in text


def test_a_model_without_cross_encoders_leaves_sensible_gaps(report: Any, examples: Any) -> None:
    retrieval = report["retrieval"]
    del retrieval["gain_R@1"], report["minimal_pairs"], examples["searches"]["shown"][0]["ranking"]
    retrieval["mean_recall"]["ranking"] = None
    retrieval["text_to_image"]["ranking"] = retrieval["image_to_text"]["ranking"] = None
    examples["searches"]["shown"][0] |= {"why": "random", "rank": {"pre_ranking": 2, "ranking": None}}
    examples["minimal_pairs"] = []
    text = Page(render_page(report, examples, [], CORPUS, {})).text
    assert "no cross encoders, hence no ranking stage" in text
    assert "The data has no minimal pairs." in text
    assert "There is no training log." in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("gain", "english"),
    [
        ({"mean": 3.0, "low": 1.0, "high": 5.0}, "raises this to"),
        ({"mean": 1.0, "low": -1.0, "high": 3.0}, "makes no reliable difference"),
        ({"mean": -3.0, "low": -5.0, "high": -1.0}, "lowers this to"),
    ],
)
def test_words_claim_a_gain_only_where_the_interval_allows(report: Any, gain: Any, english: str) -> None:
    report["retrieval"]["gain_R@1"] = gain
    assert english in result_in_words(report)[1]


def test_a_frame_maps_the_corners_and_the_middle_of_the_data() -> None:
    frame = Frame(left=40, top=10, width=200, height=100, x=(0, 600), y=(1.0, 3.0))
    assert frame.to_pixels(0, 1.0) == (40, 110)
    assert frame.to_pixels(600, 3.0) == (240, 10)
    assert frame.to_pixels(300, 2.0) == (140, 60)


def test_a_chart_draws_each_point_where_the_frame_places_it() -> None:
    chart = line_chart([(0, 0.0), (50, 4.0), (100, 2.0)], (0, 100), "loss")
    assert 'points="44.0,114.0 176.0,10.0 308.0,62.0"' in chart
    assert 'cx="308.0" cy="62.0"' in chart


def test_a_chart_of_nothing_finite_is_empty_and_of_one_value_is_not() -> None:
    assert line_chart([(0, float("nan"))], (0, 10), "loss") == ""
    assert "nan" not in line_chart([(0, 2.0), (5, float("inf"))], (0, 10), "loss")
    assert 'points="44.0,' in line_chart([(0, 0.0)], (0, 10), "loss")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_even_and_span_the_data(low: float, width: float) -> None:
    high = low + width
    marks = ticks(low, high)
    steps = [after - before for before, after in pairwise(marks)]
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert 2 <= len(marks) <= 6
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert max(steps) - min(steps) <= slack


def test_ticks_of_a_known_range() -> None:
    assert ticks(0.13, 0.92) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(85, 161) == [80, 100, 120, 140, 160, 180]


def test_moving_mean_shortens_its_window_at_the_ends() -> None:
    assert moving_mean([(0, 1.0), (1, 2.0), (2, 6.0)], 3) == [(0, 1.5), (1, 3.0), (2, 4.0)]
    assert moving_mean([(0, 1.0), (1, 5.0)], 1) == [(0, 1.0), (1, 5.0)]


def test_choose_takes_half_from_the_fixed_and_half_from_all_and_is_fixed_by_the_seed() -> None:
    before = [index % 2 == 0 for index in range(40)]
    after = [index % 4 != 2 for index in range(40)]
    chosen = choose(before, after, 6, 2, seed=3)
    assert [why for why, _ in chosen] == ["mended"] * 3 + ["random"] * 3 + ["worsened"] * 2
    assert all(index % 2 == 1 for why, index in chosen if why == "mended")
    assert all(index % 4 == 2 for why, index in chosen if why == "worsened")
    assert len({index for _, index in chosen}) == 8
    assert chosen == choose(before, after, 6, 2, seed=3)
    assert chosen != choose(before, after, 6, 2, seed=4)


def test_choose_fills_up_with_random_ones_where_ranking_fixed_nothing() -> None:
    assert [why for why, _ in choose([True] * 9, [True] * 9, 6, 2, seed=0)] == ["random"] * 6
    assert len(choose([True], [True], 6, 2, seed=0)) == 1


def _evaluation(ranks: Ranks, scores: MinimalPairScores) -> Evaluation:
    """Three images and three texts in the plane; text 0 is nearest to image 1 by cosine."""
    images = TowerOutput(torch.tensor([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]]), torch.zeros(3, 1, 2), None)
    texts = TowerOutput(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.zeros(3, 1, 2), None)
    samples = [Sample(f"{index}.jpg", (f"图{index}",)) for index in range(3)]
    pairs = [MinimalPair(2, "真", "假", "place")]
    gallery = Gallery(images, texts, torch.arange(3))
    return Evaluation({}, samples, ["图0", "图1", "图2"], gallery, {"text_to_image": ranks}, pairs, scores)


def test_gathered_examples_hold_both_stages_order_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    match = torch.tensor([0.9, 0.1, 0.2])
    monkeypatch.setattr(
        stages,
        "rank_pairs",
        lambda model, images, texts, image, text: Match(match[image], match[image], match[image, None].expand(-1, 2)),
    )
    model: Any = torch.nn.Identity()
    model.can_rank = True
    model.config = SimpleNamespace(ranking_rule="sum")
    ranks = Ranks(torch.tensor([2, 1, 1]), torch.tensor([1, 2, 1]))
    scores = MinimalPairScores(torch.tensor([[0.5, 0.6]]), torch.tensor([[1.4, 0.7]]))
    result = gather_examples(_evaluation(ranks, scores), model, depth=2, seed=0)
    searches = result["searches"]
    assert (searches["queries"], searches["mended"], searches["worsened"]) == (3, 1, 1)
    first = searches["shown"][0]
    assert (first["why"], first["text"], first["picture"]) == ("mended", "图0", "0.jpg")
    assert first["rank"] == {"pre_ranking": 2, "ranking": 1}
    # Only the top two by cosine are ranked: 1.0 + 0.1 against 0.8 + 0.9.
    assert first["pre_ranking"] == ["1.jpg", "0.jpg"]
    assert first["ranking"] == ["0.jpg", "1.jpg"]
    [pair] = result["minimal_pairs"]
    assert (pair["why"], pair["picture"], pair["swap"]) == ("mended", "2.jpg", "place")
    assert pair["scores"] == {"pre_ranking": [0.5, 0.6], "ranking": [1.4, 0.7]}
    assert pair["right"] == {"pre_ranking": False, "ranking": True}


def test_examples_of_towers_alone_are_random_and_have_one_row() -> None:
    model: Any = SimpleNamespace(can_rank=False)
    scores = MinimalPairScores(torch.tensor([[0.7, 0.6]]), None)
    result = gather_examples(_evaluation(Ranks(torch.tensor([2, 1, 1]), None), scores), model, depth=2, seed=0)
    assert {search["why"] for search in result["searches"]["shown"]} == {"random"}
    assert all("ranking" not in search for search in result["searches"]["shown"])
    assert result["minimal_pairs"][0]["scores"] == {"pre_ranking": [0.7, 0.6]}


def test_each_image_that_is_shown_is_asked_for_once(examples: Any) -> None:
    again = deepcopy(examples)
    again["searches"]["shown"] *= 2
    assert sorted(images_shown(again, CORPUS)) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_a_false_text_is_marked_where_it_differs() -> None:
    marked = differing_chinese_text("蓝船在红车左边", "红船在蓝车左边")
    assert re.sub(r"<[^>]+>", "", marked) == "蓝船在红车左边"
    assert re.findall(r"<mark>(.*?)</mark>", marked) == ["蓝", "红"]


def test_durations_in_both_languages() -> None:
    assert duration(4.25) == ("4.2 秒", "4.2 s")
    assert duration(119.7) == ("2 分 0 秒", "2 min 0 s")
